"""Images to pixels: open_clip's inference transform to the bit, with Pillow and numpy alone.

The order is the transform's: resize, crop or pad, and only then conversion to RGB. So a palette image is resized by its
indices (Pillow falls back to nearest), a 16-bit image in 16 bits, and EXIF orientation is not applied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from engines.errors import ImageError, InputError
from engines.image_inputs import (
    MAX_PIXELS,
    ImageInput,
    PrivateImage,
    by,
    check_size,
    damaged,
    opened_image,
    pixel_limit,
    private_image,
)
from engines.manifest import Preprocess

__all__ = ["MAX_PIXELS", "ImageInput", "normalize_pixels", "preprocess_image", "preprocess_private"]

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


def preprocess_image(image: ImageInput, config: Preprocess, max_pixels: int | None = None) -> npt.NDArray[np.uint8]:
    """The pixels that open_clip's inference transform has before ``ToTensor`` and ``Normalize``.

    Args:
        image: a path, an encoded file as bytes or as a file object (read from its start), a Pillow image of any mode, or RGB pixels
            (H, W, 3) uint8.
        config: size, resize mode, interpolation and fill colour of the checkpoint.
        max_pixels: largest width x height that is decoded, and that resizing may make on the way. It is compared with the file's
            header, before anything is decoded. None is 178,956,970, or twice ``PIL.Image.MAX_IMAGE_PIXELS`` where that is less.

    Returns:
        (H, W, 3) uint8, RGB, with (H, W) = `config.size`.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or larger than `max_pixels`.
        InputError: `image` is of another type, or an array of another shape or dtype.
    """
    return preprocess_private(private_image(image, max_pixels), config, max_pixels)


def preprocess_private(image: PrivateImage, config: Preprocess, max_pixels: int | None = None) -> npt.NDArray[np.uint8]:
    """As `preprocess_image`, of what `engines.image_inputs.private_image` gave: in any thread."""
    with opened_image(image, max_pixels) as (opened, name):
        return _transform(opened, name, config, pixel_limit(max_pixels))


def normalize_pixels(pixels: npt.NDArray[np.uint8], config: Preprocess) -> npt.NDArray[np.float32]:
    """Pixels as a float32 graph takes them: what ``ToTensor`` and ``Normalize`` make of them, to the bit.

    The same float32 operations in the same order: divide by 255, subtract the mean, divide by the standard deviation.

    Args:
        pixels: (N, H, W, 3) uint8, as stacked from :func:`preprocess_image`.
        config: mean and standard deviation of the checkpoint.

    Returns:
        (N, 3, H, W) float32, C-contiguous.

    Raises:
        InputError: `pixels` has another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3:
        raise InputError(f"pixels must be uint8 (N, H, W, 3), not {pixels.dtype} {pixels.shape}; see preprocess_image")
    result: npt.NDArray[np.float32] = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
    result /= np.float32(255)
    result -= np.asarray(config.mean, np.float32).reshape(3, 1, 1)
    result /= np.asarray(config.std, np.float32).reshape(3, 1, 1)
    return result


def _transform(image: Image.Image, name: str, config: Preprocess, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Resize, crop or pad, convert to RGB. `image` may still be undecoded: only its size is read before the checks."""
    check_size(image.size, name, max_pixels)
    width, height = image.size
    new_height, new_width = _resized_size((height, width), config)
    if new_height * new_width > max_pixels or min(new_height, new_width) == 0:
        raise ImageError(
            f"{name}: {by(image.size)} pixels resized by {config.resize_mode!r} would be {by((new_width, new_height))}, "
            f"outside 1 to {max_pixels} pixels; crop the image to a less extreme aspect ratio"
        )
    resampling = _RESAMPLING[config.interpolation]
    if config.resize_mode == "shortest" and config.size[0] != config.size[1]:
        resampling = Image.Resampling.BICUBIC  # open_clip's transform does not pass the interpolation on in this case
    try:
        if (new_width, new_height) != image.size:
            image = image.resize((new_width, new_height), resampling)
        if config.resize_mode != "squash":
            fill = config.fill_color if config.resize_mode == "longest" else 0
            image = _center_crop_or_pad(image, config.size, fill)
        return np.array(image.convert("RGB"))
    except Exception as error:  # Pillow decodes in here, and on damaged data its plugins raise anything
        raise damaged(name, error) from error


def _resized_size(size: tuple[int, int], config: Preprocess) -> tuple[int, int]:
    """(height, width) after resizing, rounded as torchvision and open_clip round in each of their cases."""
    height, width = size
    target_height, target_width = config.size
    if config.resize_mode == "squash":
        return target_height, target_width
    if config.resize_mode == "shortest" and target_height == target_width:
        long = int(target_height * max(size) / min(size))
        return (long, target_width) if width <= height else (target_height, long)
    choose = max if config.resize_mode == "longest" else min
    ratio = choose(height / target_height, width / target_width)
    return round(height / ratio), round(width / ratio)


def _center_crop_or_pad(image: Image.Image, size: tuple[int, int], fill: int) -> Image.Image:
    """The middle (height, width) of `image`, on a border of `fill` (in every channel) where it is smaller."""
    height, width = size
    missing_x, missing_y = max(0, width - image.width), max(0, height - image.height)
    if missing_x or missing_y:
        border = (missing_x // 2, missing_y // 2, (missing_x + 1) // 2, (missing_y + 1) // 2)
        channels = len(image.getbands())
        padded = ImageOps.expand(image, border, fill if channels == 1 else (fill,) * channels)
        if image.mode == "P":
            palette = image.getpalette()
            assert palette is not None
            padded.putpalette(palette)
        image = padded
    top, left = round((image.height - height) / 2), round((image.width - width) / 2)
    return image.crop((left, top, left + width, top + height))
