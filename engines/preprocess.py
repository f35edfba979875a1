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
from PIL import Image, ImageOps, UnidentifiedImageError

from engines.errors import ImageError, InputError
from engines.image_formats import advice, open_image
from engines.manifest import Preprocess

# Pillow refuses to open a file beyond twice its MAX_IMAGE_PIXELS; the same figure bounds what is decoded and resized here.
MAX_PIXELS = 178_956_970

ImageInput: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"

_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}


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
        return _transform(image, f"image ({image.mode}, {_by(image.size)})", config, max_pixels)
    if isinstance(image, np.ndarray):
        return _transform(_from_array(image), f"array of {_by(image.shape[1::-1])} pixels", config, max_pixels)
    if isinstance(image, bytes):
        name = f"image of {len(image)} bytes"
        if not image:
            raise ImageError(f"{name}: there is nothing to decode; pass an encoded image file's whole content")
        with _open(io.BytesIO(image), name, max_pixels) as opened:
            return _transform(opened, name, config, max_pixels)
    if isinstance(image, (str, os.PathLike)):
        name = os.fspath(image)
        with _open(image, name, max_pixels) as opened:
            return _transform(opened, name, config, max_pixels)
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
        return open_image(file)
    except Image.DecompressionBombError as error:
        detail = str(error).split(",")[0]
        limit = min(max_pixels, 2 * (Image.MAX_IMAGE_PIXELS or max_pixels))
        raise ImageError(f"{name}: over the limit of {limit} pixels ({detail}); scale the image down first") from error
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; check the path") from error
    except UnidentifiedImageError as error:
        if not isinstance(file, io.BytesIO) and os.path.getsize(file) == 0:
            raise ImageError(f"{name}: the file is empty (0 bytes); fetch or save it again") from error
        raise ImageError(f"{name}: {advice(file)}") from error
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


def _transform(image: Image.Image, name: str, config: Preprocess, max_pixels: int) -> npt.NDArray[np.uint8]:
    """Resize, crop or pad, convert to RGB. `image` may still be undecoded: only its size is read before the checks."""
    width, height = image.size
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {_by(image.size)} = {width * height} pixels are over the limit of {max_pixels}; "
            "scale the image down first, or raise max_pixels"
        )
    if width == 0 or height == 0:
        raise ImageError(f"{name}: the image is {_by(image.size)} pixels; it needs at least one")
    new_height, new_width = _resized_size((height, width), config)
    if new_height * new_width > max_pixels or min(new_height, new_width) == 0:
        raise ImageError(
            f"{name}: {_by(image.size)} pixels resized by {config.resize_mode!r} would be {_by((new_width, new_height))}, "
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
        raise ImageError(
            f"{name}: the image is truncated, damaged or of an unsupported kind ({error}); fetch or save the file again"
        ) from error


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


def _by(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
