"""Resizing by one rule, whichever Pillow is installed.

Pillow resizes one axis after the other and rounds in between, so the order decides about the result, by up to 8 levels. Its
releases choose differently: up to 12.1 the width always comes first, 12.2 and 12.3 begin with the height of pictures that are
more than 100 times as tall as wide, and 13.0 looks at how many rows and columns go. Here each axis is a call of its own, in 13.0's
order, because a call for one axis gives the same in all releases.
"""

from __future__ import annotations

from PIL import Image

# Premultiplied kinds of the modes with an alpha channel: colours are resized weighted by it.
_PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}


def resize(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """What ``image.resize(size, resampling)`` of Pillow 13.0 gives, to the bit, from Pillow 11.0 on.

    Args:
        image: of any mode; a palette's indices and single bits are resized to the nearest pixel, as Pillow does.
        size: (width, height) in pixels, both at least 1.
        resampling: ``BICUBIC`` or ``BILINEAR``.

    Returns:
        An image of the same mode; a copy where the size is the image's own.

    Raises:
        ValueError: Pillow cannot resize this mode.
        OSError: the image is not decoded yet, and its data are damaged.
    """
    if image.mode in _PREMULTIPLIED and size != image.size:
        return _two_passes(image.convert(_PREMULTIPLIED[image.mode]), size, resampling).convert(image.mode)
    return _two_passes(image, size, resampling)


def height_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether the height is resized before the width: it loses rows, and more than twice as many as the width loses columns.

    A width that grows loses a negative number.

    Args:
        old: (width, height) of the image.
        new: (width, height) to be made of it.
    """
    rows, columns = old[1] - new[1], old[0] - new[0]
    return rows > 0 and rows > 2 * columns


def _two_passes(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    between = (image.width, size[1]) if height_first(image.size, size) else (size[0], image.height)
    return _one_pass(_one_pass(image, between, resampling), size, resampling)


def _one_pass(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Resize one axis."""
    if size == image.size:
        return image
    if image.mode.startswith("I;16"):
        # Before 12.3 the low byte of what lies over 65535 is not clipped; in 32 bits the arithmetic is the same, and the way back
        # clips. Pillow resizes I;16B, of TIFF files with the high byte first, as if the low byte came first; so does this.
        words = _reinterpret(image, "I;16").convert("I").resize(size, resampling).convert("I;16")
        return _reinterpret(words, image.mode)
    return image.resize(size, resampling)


def _reinterpret(image: Image.Image, mode: str) -> Image.Image:
    """The same bytes in another mode with as many a pixel."""
    return image if image.mode == mode else Image.frombytes(mode, image.size, image.tobytes())
