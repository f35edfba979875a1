"""Resizing by one rule, independent of the installed version of Pillow.

Pillow resizes one axis after the other and rounds in between, so the order changes the result, by up to 8 levels. Its releases
differ in the order: up to 12.1 the width always comes first, 12.2 and 12.3 begin with the height where a picture is more than 100
times as tall as wide, and 13.0 compares the numbers of rows and columns that are lost. Here each axis is a separate call, in 13.0's
order, because a call for one axis gives equal results in all releases.
"""

from __future__ import annotations

from PIL import Image

# Modes with an alpha channel and their premultiplied modes, in which resizing weights colours by alpha.
_PREMULTIPLIED = {"RGBA": "RGBa", "LA": "La"}


def resize(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, extent: tuple[float, float] | None = None
) -> Image.Image:
    """The image resized as by ``image.resize(size, resampling)`` of Pillow 13.0, to the bit, with Pillow 11.0 or later.

    Args:
        image: an image of any mode; palette indices and single bits are resized to the nearest pixel, as in Pillow.
        size: (width, height) in pixels, both at least 1.
        resampling: ``BICUBIC`` or ``BILINEAR``.
        extent: (width, height) of the part that is resized, from the upper left corner; None: the whole image. Only for modes of 8
            bits without alpha and palette.

    Returns:
        An image of the same mode; a copy where the size is the image's own.

    Raises:
        ValueError: Pillow cannot resize this mode.
        OSError: the image is not decoded yet, and its data are damaged.
    """
    if image.mode in _PREMULTIPLIED and size != image.size:
        return _two_passes(image.convert(_PREMULTIPLIED[image.mode]), size, resampling).convert(image.mode)
    if extent is not None and extent != image.size:
        return _two_parts(image, size, resampling, extent)
    return _two_passes(image, size, resampling)


def height_first(old: tuple[int, int], new: tuple[int, int]) -> bool:
    """Whether the height is resized before the width: rows are lost, and more than twice as many rows as columns.

    A width that grows loses a negative number of columns.

    Args:
        old: (width, height) of the image.
        new: (width, height) after resizing.
    """
    rows, columns = old[1] - new[1], old[0] - new[0]
    return rows > 0 and rows > 2 * columns


def _two_passes(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    between = (image.width, size[1]) if height_first(image.size, size) else (size[0], image.height)
    return _one_pass(_one_pass(image, between, resampling), size, resampling)


def _two_parts(
    image: Image.Image, size: tuple[int, int], resampling: Image.Resampling, extent: tuple[float, float]
) -> Image.Image:
    """Resize one axis after the other, of a part of the image."""
    if height_first(image.size, size):
        between = image.resize((image.width, size[1]), resampling, (0, 0, image.width, extent[1]))
        return between.resize(size, resampling, (0, 0, extent[0], size[1]))
    between = image.resize((size[0], image.height), resampling, (0, 0, extent[0], image.height))
    return between.resize(size, resampling, (0, 0, size[0], extent[1]))


def _one_pass(image: Image.Image, size: tuple[int, int], resampling: Image.Resampling) -> Image.Image:
    """Resize one axis."""
    if size == image.size:
        return image
    if image.mode.startswith("I;16"):
        # Before 12.3, Pillow does not clip the low byte of values over 65535; in 32 bits the arithmetic is the same, and the
        # conversion back clips. Pillow resizes I;16B (TIFF files with the high byte first) as if the low byte came first; this
        # function does the same.
        words = _reinterpret(image, "I;16").convert("I").resize(size, resampling).convert("I;16")
        return _reinterpret(words, image.mode)
    return image.resize(size, resampling)


def _reinterpret(image: Image.Image, mode: str) -> Image.Image:
    """The same bytes in another mode that has as many bytes a pixel."""
    return image if image.mode == mode else Image.frombytes(mode, image.size, image.tobytes())
