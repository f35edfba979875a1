"""The check of pixels: the bundle's hard pictures, as encoded files, and their pixels from the exporting machine."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import PIL

from engines.errors import BundleError, ImageError
from engines.files.bundle_paths import resolve_path
from engines.files.npz_files import opened_npz
from engines.inputs.preprocess import preprocess_image
from engines.manifest import Manifest, Preprocess, read_manifest

FILES, PIXELS, STEP = "picture_files/", "picture_pixels/", "picture_step"
LOSSY_SUFFIX = ".jpg"
# Largest difference for JPEG. Decoders may round the cosine transform up or down, which is 1 level of luma and of each chroma, 3
# levels of blue, and 4 with the bicubic filter's negative lobes. libjpeg-turbo 3.0.4 to 3.2.0, with and without SIMD, agree to the
# bit.
LOSSY_LEVELS = 4


class PixelParity(msgspec.Struct, frozen=True, kw_only=True):
    """The comparison of this machine's pixels of a bundle's pictures with the exporting machine's."""

    pictures: int  # number of compared pictures; 0: the bundle has none
    max_error: int  # largest difference of a pixel, in levels of 255
    pillow: str  # version of Pillow here
    made_with: str  # version of Pillow on the exporting machine
    failures: tuple[str, ...]  # a sentence for each picture that differs by more than the limit
    passed: bool


def verify_pixels(bundle: str | os.PathLike[str]) -> PixelParity:
    """Decode and preprocess the pictures in a bundle's reference file, and compare.

    Lossless pictures have to be equal to the bit; JPEG pictures may differ by `LOSSY_LEVELS`, because decoders may round.

    Args:
        bundle: the bundle's folder. Checksums are not compared here; `engines.verification.embeddings.verify_bundle` does that.

    Returns:
        The figures; `passed` is also True for a bundle without pictures, which an earlier release wrote.

    Raises:
        BundleError: the manifest or the reference file is missing or damaged.
    """
    folder = Path(bundle)
    manifest = read_manifest(folder)
    made_with = manifest.created_with.get("pillow", "of an unknown version")
    files, pixels, step = _read_pictures(folder, manifest)
    largest, failures = 0, []
    for name, data in files.items():
        error, failure = _compare(name, data, pixels[name], step, manifest.preprocess)
        largest = max(largest, error)
        if failure:
            failures.append(
                f"picture {name}: {failure}, Pillow here is {PIL.__version__} and was {made_with} where the bundle was "
                f"exported; install that version, or export the bundle again on this machine"
            )
    return PixelParity(
        pictures=len(files),
        max_error=largest,
        pillow=PIL.__version__,
        made_with=made_with,
        failures=tuple(failures),
        passed=not failures,
    )


def _read_pictures(folder: Path, manifest: Manifest) -> tuple[dict[str, bytes], dict[str, npt.NDArray[np.uint8]], int]:
    """The reference file's pictures and pixels by name, and the step between the rows and columns that it holds of the pixels."""
    path = resolve_path(folder, manifest.reference)
    with opened_npz(path, BundleError, "is missing or damaged", "copy or export the bundle again") as arrays:
        names = [key.removeprefix(FILES) for key in arrays.files if key.startswith(FILES)]
        if not names:
            return {}, {}, 1
        files = {name: arrays[FILES + name].astype(np.uint8, casting="safe").tobytes() for name in names}
        pixels = {name: arrays[PIXELS + name].astype(np.uint8, casting="safe") for name in names}
        step = int(arrays[STEP])
        if step < 1:
            raise ValueError(f"{STEP} is {step}, and must be 1 or more")
        height, width = (len(range(0, side, step)) for side in manifest.preprocess.size)
        wrong = [name for name in names if pixels[name].shape != (height, width, 3)]
    if wrong:
        raise BundleError(
            f"{path} is damaged: the pixels of {wrong[0]} have the shape {pixels[wrong[0]].shape}, not {(height, width, 3)}: "
            "copy or export the bundle again"
        )
    return files, pixels, step


def _compare(
    name: str, data: bytes, expected: npt.NDArray[np.uint8], step: int, config: Preprocess
) -> tuple[int, str | None]:
    """The largest difference in levels, and the problem in words; None if the difference is within the limit."""
    try:
        actual = preprocess_image(data, config)[::step, ::step]
    except ImageError as error:
        return 255, f"it cannot be read here ({error})"
    error_levels = int(np.abs(actual.astype(np.int16) - expected).max())
    limit = LOSSY_LEVELS if name.endswith(LOSSY_SUFFIX) else 0
    if error_levels <= limit:
        return error_levels, None
    return error_levels, f"its pixels differ by up to {error_levels} levels of 255 (limit {limit})"
