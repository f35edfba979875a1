"""Preprocessing of images to pixels: open_clip's inference transform to the bit, with Pillow and numpy alone.

The order is the transform's: resize, crop or pad, and only then conversion to RGB. So a palette image is resized by its
indices (Pillow then takes the nearest pixel), a 16-bit image in 16 bits, and EXIF orientation is not applied.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from engines.errors import InputError
from engines.inputs.image_inputs import MAX_PIXELS, ImageInput, PrivateImage, opened_image, pixel_limit, private_image
from engines.inputs.transform import resize_and_crop
from engines.manifest import Preprocess

__all__ = ["MAX_PIXELS", "ImageInput", "normalize_pixels", "preprocess_image", "preprocess_private"]


def preprocess_image(image: ImageInput, config: Preprocess, max_pixels: int | None = None) -> npt.NDArray[np.uint8]:
    """The pixels that open_clip's inference transform has before ``ToTensor`` and ``Normalize``.

    Args:
        image: a path, an encoded file as bytes or as a file object (read from its start), a Pillow image of any mode, or RGB pixels
            (H, W, 3) uint8.
        config: size, resize mode, interpolation and fill colour of the checkpoint.
        max_pixels: largest width x height of a decoded image and of the resized one before the crop. It is compared with the
            file's header before pixels are decoded. None is 178,956,970, or twice ``PIL.Image.MAX_IMAGE_PIXELS`` where that is
            less.

    Returns:
        (H, W, 3) uint8, RGB, with (H, W) = `config.size`.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or larger than `max_pixels`.
        InputError: `image` is of another type, or an array of another shape or dtype.
    """
    return preprocess_private(private_image(image, max_pixels), config, max_pixels)


def preprocess_private(
    image: PrivateImage, config: Preprocess, max_pixels: int | None = None, oversampling: int = 0
) -> npt.NDArray[np.uint8]:
    """The pixels of `preprocess_image` for a result of `engines.inputs.image_inputs.private_image`; any thread may call it.

    With `oversampling`, large JPEG files are decoded at a part of their size, see `engines.inputs.transform.reduce_jpeg`.
    """
    with opened_image(image, max_pixels) as (opened, name):
        return resize_and_crop(opened, name, config, pixel_limit(max_pixels), oversampling)


def normalize_pixels(pixels: npt.NDArray[np.uint8], config: Preprocess) -> npt.NDArray[np.float32]:
    """Pixels as input of a float32 graph: equal to the result of ``ToTensor`` and ``Normalize`` to the bit.

    The float32 operations and their order are the same: divide by 255, subtract the mean, divide by the standard deviation.

    Args:
        pixels: (N, H, W, 3) uint8, stacked results of :func:`preprocess_image`.
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
