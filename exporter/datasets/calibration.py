"""Calibration data: pictures and captions like an engine's later inputs, from which quantization takes its ranges.

Pictures are decoded once, by the engine's own preprocessing, into a file that is mapped, so memory does not grow with their
number. The same data and seed give the same pictures in the same order.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from engines.errors import ImageError, InputError
from engines.inputs.decode import Decoder
from engines.inputs.image_files import FoundImages, describe_left_out, find_images, read_list
from engines.inputs.image_formats import is_image_name
from engines.manifest import Preprocess
from exporter.datasets.shards import find_shards, shard_pictures
from exporter.errors import ExportError
from exporter.reference.parity_data import CAPTIONS_NAME, read_captions

if TYPE_CHECKING:
    from PIL import Image

LEAST_IMAGES = 128
CALIBRATION_FILE = "calibration.npy"  # decoded pictures, until the towers are exported
RECOMMENDED_IMAGES = 512
_CAPTIONS = 512
_BATCH = 32

Picture = Any  # a path, an encoded file's bytes or a Pillow image


@dataclass(frozen=True)
class Calibration:
    """The source of calibration data.

    Attributes:
        name: the folder's or file's name, for the manifest.
        pictures: a function that starts over at every call, in an order that depends only on data and seed; None: no pictures.
        captions: the captions.
        captions_source: one line on the origin of the captions.
        notes: sentences about files that were left out.
    """

    name: str
    pictures: Callable[[], Iterator[Picture]] | None
    captions: tuple[str, ...]
    captions_source: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class CalibrationImages:
    """Decoded calibration pictures.

    Attributes:
        pixels: the decoded pictures, (N, H, W, 3) uint8, mapped from a file.
        skipped: the number of pictures that could not be read.
        first_skipped: the reason why the first of those could not be read.
        blank: the number of pictures of one colour, which were left out because they give no information about ranges.
    """

    pixels: npt.NDArray[np.uint8]
    skipped: int
    first_skipped: str
    blank: int


def open_calibration(
    path: Path | None, captions: Path | None, is_demo: bool, needs_images: bool, seed: int = 0
) -> Calibration:
    """Open the calibration data that the user named, and run the quick checks on it.

    Args:
        path: a folder of images (with an optional captions.txt), a ``.tar`` or folder of ``.tar`` (webdataset), or a text file of
            paths, one on each line; None: the user named none.
        captions: a UTF-8 text file, one caption on each line; None: the folder's captions.txt, or open_clip's prompts.
        is_demo: whether the model is the bundled demo model, which has pictures of its own.
        needs_images: whether an image tower will be quantized.
        seed: the seed of the choice and order.

    Raises:
        ExportError: images are needed and none were named; the path does not exist; there are too few files, or no caption.
    """
    if path is None and is_demo:
        return _demo(seed)
    if path is None and needs_images:
        raise ExportError(
            f"quantization needs images to take its ranges from: pass --calibration DIR with at least {LEAST_IMAGES} pictures "
            f"like those that will be embedded ({RECOMMENDED_IMAGES} recommended; a folder, a webdataset .tar, or a text file of "
            "paths)"
        )
    pictures, notes = (None, ()) if path is None else _pictures(path, seed)
    beside = path / CAPTIONS_NAME if path is not None and path.is_dir() else None
    file = captions if captions is not None else beside if beside is not None and beside.is_file() else None
    texts, source = read_captions(file, _CAPTIONS, seed)
    return Calibration(path.resolve().name if path is not None else "none", pictures, texts, source, notes)


def decode_images(calibration: Calibration, config: Preprocess, count: int, folder: Path) -> CalibrationImages:
    """Decode up to `count` usable pictures into a file in `folder`.

    Raises:
        ExportError: fewer than 128 pictures can be used.
    """
    assert calibration.pictures is not None
    height, width = config.size
    file = folder / CALIBRATION_FILE
    pixels = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=(count, height, width, 3))
    used = skipped = blank = 0
    first = ""
    decoder = Decoder(config)
    pictures = calibration.pictures()
    try:
        while used < count and (group := list(itertools.islice(pictures, min(_BATCH, count - used)))):
            for item in next(decoder.batches(group, len(group)))[1]:
                if isinstance(item, ImageError):
                    skipped += 1
                    first = first or str(item)
                elif not np.ptp(item, axis=(0, 1)).any():
                    blank += 1
                else:
                    pixels[used] = item
                    used += 1
    except InputError as error:
        raise ExportError(f"calibration data {calibration.name}: {error}") from error
    finally:
        decoder.close()
    if used < LEAST_IMAGES:
        reasons = [f"{skipped} cannot be read ({first})"] * bool(skipped) + [f"{blank} are of one colour"] * bool(blank)
        raise ExportError(
            f"{used} pictures of {calibration.name} can be used for calibration"
            f"{': ' + ', '.join(reasons) if reasons else ''}; at least {LEAST_IMAGES} are needed, "
            f"{RECOMMENDED_IMAGES} recommended"
        )
    pixels.flush()
    return CalibrationImages(np.load(file, mmap_mode="r")[:used], skipped, first, blank)


def _pictures(path: Path, seed: int) -> tuple[Callable[[], Iterator[Picture]], tuple[str, ...]]:
    if not path.exists():
        raise ExportError(f"calibration data {path} is not there")
    try:
        shards = find_shards(path, "train") if path.is_dir() or path.suffix == ".tar" else []
        if shards:
            return lambda: iter(shard_pictures(shards)), ()
        if path.is_file() and is_image_name(path.name):
            raise ExportError(
                f"{path} is one image: calibration needs at least {LEAST_IMAGES}, in a folder, .tar or list"
            )
        listing = FoundImages(read_list(path)) if path.is_file() else find_images(path, own_files=(CAPTIONS_NAME,))
    except InputError as error:
        raise ExportError(f"calibration data: {error}") from error
    files = listing.files
    left_out = describe_left_out(listing.left_out) if listing.left_out else ""
    if len(files) < LEAST_IMAGES:
        beside = f" ({left_out})" if left_out else ""
        raise ExportError(
            f"{path} has {len(files)} image file{'s' * (len(files) != 1)}{beside}: calibration needs at least {LEAST_IMAGES}, "
            f"{RECOMMENDED_IMAGES} recommended"
        )
    order = np.random.default_rng([seed, 2]).permutation(len(files))
    return lambda: (files[int(i)] for i in order), (f"calibration images {left_out}",) if left_out else ()


def _demo(seed: int) -> Calibration:
    """Make calibration data from renders and captions of the demo model's training scenes, without the held-out scenes."""
    from exporter.demo.scenes import EVALUATION_SIZE, render, train_scenes, write_caption

    scenes = tuple(train_scenes())

    def pictures() -> Iterator[Image.Image]:
        rng = np.random.default_rng([seed, 4])
        while True:
            yield render(scenes[int(rng.integers(len(scenes)))], EVALUATION_SIZE, rng)

    rng = np.random.default_rng([seed, 5])
    texts: dict[str, None] = {}
    while len(texts) < _CAPTIONS:
        texts[str(write_caption(scenes[int(rng.integers(len(scenes)))], rng).text)] = None
    return Calibration("demo's training scenes", pictures, tuple(texts), "demo's training captions")
