"""Images to pixels: open_clip's inference transform to the bit, with Pillow and numpy alone.

The order is the transform's: resize, crop or pad, and only then conversion to RGB. So a palette image is resized by its
indices (Pillow falls back to nearest), a 16-bit image in 16 bits, and EXIF orientation is not applied.
"""

from __future__ import annotations

import io
import os
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from engines.errors import ImageError, InputError
from engines.manifest import Preprocess
from engines.transform import by, resize_and_crop

# Pillow refuses to open a file beyond twice its MAX_IMAGE_PIXELS; the same figure bounds what is decoded and resized here.
MAX_PIXELS = 178_956_970

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"


def preprocess_image(image: ImageInput, config: Preprocess, max_pixels: int = MAX_PIXELS) -> npt.NDArray[np.uint8]:
    """The pixels that open_clip's inference transform has before ``ToTensor`` and ``Normalize``.

    Args:
        image: a path, an encoded file's bytes, a Pillow image of any mode, or RGB pixels (H, W, 3) uint8.
        config: size, resize mode, interpolation and fill colour of the checkpoint.
        max_pixels: largest width x height that is decoded, and that resizing may make on the way. It is compared with the
            file's header, before anything is decoded. Files beyond Pillow's own limit are refused whatever it says.

    Returns:
        (H, W, 3) uint8, RGB, with (H, W) = `config.size`.

    Raises:
        ImageError: the file is missing, empty, truncated, not an image, or larger than `max_pixels`.
        InputError: `image` is of another type, or an array of another shape or dtype.
    """
    if isinstance(image, Image.Image):
        return resize_and_crop(image, f"image ({image.mode}, {by(image.size)})", config, max_pixels)
    if isinstance(image, np.ndarray):
        return resize_and_crop(_from_array(image), f"array of {by(image.shape[1::-1])} pixels", config, max_pixels)
    if isinstance(image, bytes):
        name = f"image of {len(image)} bytes"
        if not image:
            raise ImageError(f"{name}: there is nothing to decode; pass an encoded image file's whole content")
        with _open(io.BytesIO(image), name, max_pixels) as opened:
            return resize_and_crop(opened, name, config, max_pixels)
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        with _open(image, name, max_pixels) as opened:
            return resize_and_crop(opened, name, config, max_pixels)
    raise InputError(
        f"cannot read an image from a {type(image).__name__}; pass a path, bytes, a Pillow image or a uint8 array (H, W, 3)"
    )


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


def _open(file: str | os.PathLike[str] | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    """A Pillow image whose header was read and whose pixels were not."""
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        detail = str(error).split(",")[0]
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ImageError(f"{name}: over the limit of {limit} pixels ({detail}); scale the image down first") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; check the path") from error
    except UnidentifiedImageError as error:
        if not isinstance(file, io.BytesIO) and os.path.getsize(file) == 0:
            raise ImageError(f"{name}: the file is empty (0 bytes); fetch or save it again") from error
        raise ImageError(f"{name}: not an image that Pillow can read; convert it to JPEG, PNG or WebP") from error
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be opened ({error.strerror or error}); check that it is a readable file"
        ) from error
    except Exception as error:  # a damaged header can make a Pillow plugin raise anything
        raise ImageError(f"{name}: the image's header is damaged ({error}); fetch or save the file again") from error


def _from_array(array: npt.NDArray[np.uint8]) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an image array must be uint8 (H, W, 3), not {array.dtype} {array.shape}; convert it to RGB bytes"
        )
    if array.size == 0:
        raise ImageError(f"array of shape {array.shape}: the image is empty; it needs at least one pixel")
    return Image.fromarray(np.ascontiguousarray(array))
