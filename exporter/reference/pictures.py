"""Hard pictures that a bundle holds as encoded files, with their pixels after preprocessing.

Image readers differ on such pictures: sides that shrink by different factors, a single pixel, palettes, transparency, 16 bits,
CMYK, progressive JPEG of odd size. `python -m engines verify` decodes them again.
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from PIL import Image

from engines.errors import ImageError
from engines.inputs.preprocess import preprocess_image
from engines.manifest import Preprocess
from engines.verification.pixels import FILES, PIXELS, STEP

_KEPT_SIDE = (
    64  # pixels: of larger pictures every second, third … row and column is kept, or the file would grow beyond 4 MB
)


def picture_arrays(config: Preprocess) -> dict[str, np.ndarray]:
    """Make the arrays of hard pictures for ``reference.npz``, by name.

    Args:
        config: the checkpoint's preprocessing.

    Returns:
        ``picture_files/<name>`` uint8 (bytes,), an encoded file; ``picture_pixels/<name>`` uint8 (h, w, 3), every n-th row and
        column of its preprocessed pixels, from the first; ``picture_step`` int32 (), this n.
    """
    step = -(-max(config.size) // _KEPT_SIDE)
    arrays: dict[str, np.ndarray] = {STEP: np.array(step, np.int32)}
    for name, data in encoded_pictures(config.size).items():
        with contextlib.suppress(
            ImageError
        ):  # a thin picture has no pixels left where the model's pictures are a few pixels wide
            arrays[PIXELS + name] = preprocess_image(data, config)[::step, ::step]
            arrays[FILES + name] = np.frombuffer(data, np.uint8)
    return arrays


def encoded_pictures(size: tuple[int, int]) -> dict[str, bytes]:
    """Make PNG and JPEG files by name, with the same pictures every time.

    Args:
        size: the (height, width) of the model's pixels. The tall and the wide picture are larger, so that they shrink.
    """
    height, width = size
    palette = Image.fromarray(_texture(70, 45, 1)[..., 0] // 16)
    palette.putpalette(_texture(1, 16, 3).tobytes())
    gray16 = _texture(150, 50, 1)[..., 0].astype(np.uint16)
    gray16 = np.where(
        gray16 < 40, np.uint16(65535), gray16
    )  # conversion to RGB cuts at 255, and so does the filter at 65535
    return {
        # The height shrinks by much more than the width, so that the order of the two shows in the pixels.
        "tall.png": _encoded(_image(6 * height, width + max(1, width // 4), "RGB"), "PNG"),
        "wide.png": _encoded(_image(height + max(1, height // 4), 6 * width, "RGB"), "PNG"),
        "dot.png": _encoded(_image(1, 1, "RGB"), "PNG"),
        "tiny.png": _encoded(_image(2, 3, "RGB"), "PNG"),
        "bits.png": _encoded(_image(64, 50, "L").convert("1", dither=Image.Dither.NONE), "PNG"),
        "palette.png": _encoded(palette, "PNG", transparency=3),
        "gray.png": _encoded(_image(47, 33, "L"), "PNG"),
        "gray16.png": _encoded(Image.fromarray(gray16), "PNG"),
        "gray-alpha.png": _encoded(_image(130, 40, "LA"), "PNG"),
        "alpha.png": _encoded(_image(130, 40, "RGBA"), "PNG"),
        "gray.jpg": _encoded(_image(47, 33, "L"), "JPEG", quality=85),
        "color.jpg": _encoded(_image(59, 91, "RGB"), "JPEG", quality=90, subsampling="4:2:2"),
        "progressive.jpg": _encoded(_image(83, 61, "RGB"), "JPEG", quality=80, subsampling="4:2:0", progressive=True),
        "cmyk.jpg": _encoded(_image(43, 61, "CMYK"), "JPEG", quality=85),
    }


def _encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _image(height: int, width: int, mode: str) -> Image.Image:
    samples = _texture(height, width, len(Image.new(mode, (1, 1)).getbands()))
    return Image.frombytes(mode, (width, height), samples.tobytes())


def _texture(height: int, width: int, channels: int) -> np.ndarray:
    """Make a texture, (height, width, channels) uint8: blocks of three brightnesses under fine noise.

    The noise repeats every 12 rows, so that it compresses well. All numbers are integers, so it is the same on every machine.
    """
    y, x, channel = np.ogrid[:height, :width, :channels]
    noise = ((y % 12) * 40503 + (x % 61) * 30011 + channel * 9973 + 1).astype(np.uint64)
    noise = (noise * np.uint64(2654435761) >> np.uint64(11)) % np.uint64(96)
    block = (y // 29 + x // 23 + channel) % 3
    return np.ascontiguousarray((noise.astype(np.int64) + 79 * block).astype(np.uint8))
