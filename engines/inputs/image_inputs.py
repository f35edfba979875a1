"""Conversion of callers' images: first into a private image that another thread can read safely, then into an opened Pillow image.

Pillow images that were opened but not decoded share file handles (all members of one tar file do), and decoding changes the
handles' positions. So their pixels are decoded in the caller's thread, one image at a time in the whole process; file objects are
read there, too. Paths, bytes, arrays and decoded images can be passed to other threads.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from engines.errors import ImageError, InputError
from engines.inputs.arguments import iterable
from engines.inputs.image_formats import advice, open_unlimited
from engines.process.forks import ForkSafeLock

# Twice Pillow's default MAX_IMAGE_PIXELS, because Pillow itself refuses larger files.
MAX_PIXELS = 178_956_970

ImageInput: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | IO[bytes] | Image.Image | npt.NDArray[np.uint8]"
)
PrivateImage: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image | npt.NDArray[np.uint8]"

_FAILED = "_engines_decoding_failed"
_SHARED_FILES = ForkSafeLock()


def pixel_limit(max_pixels: int | None) -> int:
    """Largest width x height that may be decoded: `max_pixels`; None is 178,956,970, or Pillow's limit where that was set lower."""
    if max_pixels is not None:
        return max_pixels
    return MAX_PIXELS if Image.MAX_IMAGE_PIXELS is None else min(MAX_PIXELS, 2 * Image.MAX_IMAGE_PIXELS)


def private_image(image: object, max_pixels: int | None = None, copy: bool = False) -> PrivateImage:
    """An image that can be read in another thread while the caller continues; call this in the caller's thread.

    Args:
        image: a path, an encoded file as bytes or as a file object (read from its start), a Pillow image of any mode, or RGB pixels
            (H, W, 3) uint8.
        max_pixels: argument of `pixel_limit`, whose limit is compared with a Pillow image's size before it is decoded.
        copy: whether the caller may change the image before it is used, because a generator reuses it for the next one. Arrays and
            Pillow images are copied then.

    Returns:
        The path, the bytes, the array, or the Pillow image with its pixels decoded.

    Raises:
        ImageError: the pixels of a Pillow image cannot be decoded, or are too many; or a file object cannot be read.
        InputError: `image` is of another type, or an array of another shape or dtype.
    """
    if isinstance(image, (str, bytes)):
        return image
    if isinstance(image, (os.PathLike, bytearray, memoryview)):
        return _plain(image)
    if isinstance(image, np.ndarray):
        _check_array(image)
        return image.copy() if copy else image
    if isinstance(image, Image.Image):
        return _decoded(image, pixel_limit(max_pixels), copy)
    if hasattr(image, "read"):
        return _read_all(image)
    raise InputError(
        f"cannot read an image from a {type(image).__name__}; pass a path, bytes, a file object, a Pillow image or a uint8 array "
        "(H, W, 3)"
    )


def several_images(images: object) -> Iterable[ImageInput]:
    """Images in a list or any other iterable.

    Raises:
        InputError: the value is one image in any form, or is no iterable.
    """
    one = isinstance(images, (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Image.Image))
    items = None if one or hasattr(images, "read") else iterable(images)
    if items is None:
        raise InputError(f"images must be a list of images or a uint8 array (N, H, W, 3), not {type(images).__name__}")
    return items


@contextmanager
def opened_image(image: PrivateImage, max_pixels: int | None = None) -> Iterator[tuple[Image.Image, str]]:
    """A Pillow image made from a result of `private_image`, and its name for messages; its pixels may still be undecoded.

    Raises:
        ImageError: the file is missing, empty, not an image, or has more pixels than `max_pixels` by its header.
    """
    limit = pixel_limit(max_pixels)
    if isinstance(image, Image.Image):
        name = name_of(image)
        check_size(image.size, name, limit)
        yield image, name
    elif isinstance(image, np.ndarray):
        _check_array(image)
        name = f"array of {by(image.shape[1::-1])} pixels"
        check_size(image.shape[1::-1], name, limit)
        yield Image.fromarray(np.ascontiguousarray(image)), name
    elif isinstance(image, bytes):
        name = f"image of {len(image)} bytes"
        if not image:
            raise ImageError(f"{name}: there is nothing to decode; pass an encoded image file's whole content")
        yield _identified(io.BytesIO(image), "", name, limit), name
    else:
        name = os.fspath(image)
        with _opened_file(name) as file:
            yield _identified(file, name, name, limit), name


def check_size(size: tuple[int, ...], name: str, limit: int) -> None:
    """Refuse an image that is empty or too large.

    Raises:
        ImageError: width x height is 0, or over `limit`.
    """
    width, height = size
    if width * height > limit:
        raise ImageError(
            f"{name}: {by(size)} = {width * height} pixels are over the limit of {limit} pixels; scale the image down first, or "
            "raise max_pixels of engines.load (--max-pixels on the command line)"
        )
    if width == 0 or height == 0:
        raise ImageError(f"{name}: the image is {by(size)} pixels; it needs at least one")


def damaged(name: str, error: Exception) -> ImageError:
    """The error for pixels that cannot be decoded or converted."""
    if isinstance(error, Warning):
        return ImageError(
            f"{name}: Pillow warns about the image ({error}), and warnings are errors in this process; save the image again"
        )
    if isinstance(error, MemoryError):
        return ImageError(f"{name}: no memory is left to decode and resize the image; load with a smaller max_pixels")
    return ImageError(
        f"{name}: the image is truncated, damaged or of an unsupported kind ({error}); fetch or save the file again"
    )


def name_of(image: Image.Image) -> str:
    """A Pillow image in a message."""
    return f"image ({image.mode}, {by(image.size)})"


def by(size: tuple[int, ...]) -> str:
    """``640 x 480``."""
    return " x ".join(map(str, size))


def _decoded(image: Image.Image, limit: int, copy: bool) -> Image.Image:
    name = name_of(image)
    with _SHARED_FILES:
        check_size(image.size, name, limit)
        # After a decoder has failed, Pillow treats the image as decoded, with whatever its memory holds as pixels.
        frame, failed = getattr(image, _FAILED, (None, None))
        if failed is not None and frame == image.tell() and not getattr(image, "tile", None):
            raise damaged(name, failed) from failed
        closed = _is_closed(image)
        try:
            image.load()
            return image.copy() if copy else image
        except Exception as error:  # on damaged data Pillow's plugins raise anything
            if closed:
                raise ImageError(
                    f"{name}: its file was closed before its pixels were decoded; call load() on the image first, or pass the path"
                ) from error
            setattr(image, _FAILED, (image.tell(), error))
            raise damaged(name, error) from error


def _is_closed(image: Image.Image) -> bool:
    file = getattr(image, "fp", None)
    return file is None or bool(getattr(file, "closed", False))


def _read_all(file: Any) -> bytes:
    name = str(getattr(file, "name", None) or f"a {type(file).__name__}")
    try:
        if _can_seek(file):
            with _SHARED_FILES:
                file.seek(0)
                data = file.read()
        else:
            data = file.read()
    except Exception as error:  # the object's source, a socket or an archive, may raise anything
        raise ImageError(f"{name}: cannot be read ({error}); pass an open file, or its bytes") from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InputError(f"{name} gives {type(data).__name__} and not bytes: open the file in binary mode ('rb')")
    if not data:
        raise ImageError(f"{name}: the file is empty (0 bytes); fetch or save it again")
    return bytes(data)


def _can_seek(file: Any) -> bool:
    """Whether a file object can be read from its start; some have ``seek`` but no ``seekable`` that tells whether it works."""
    if hasattr(file, "seekable"):
        return bool(file.seekable())
    return hasattr(file, "seek")


def _plain(image: os.PathLike[str] | bytearray | memoryview) -> str | bytes:
    """A path as str, or a buffer as a copy in bytes."""
    try:
        if not isinstance(image, (bytearray, memoryview)):
            return os.fspath(image)
        return bytes(image)
    except (TypeError, ValueError) as error:  # an object whose __fspath__ returns no path, or a view that was released
        raise InputError(f"cannot read an image from a {type(image).__name__}: {error}") from error


def _check_array(array: npt.NDArray[Any]) -> None:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise InputError(
            f"an image array must be uint8 (H, W, 3), not {array.dtype} {array.shape}; convert it to RGB bytes"
        )
    if array.size == 0:
        raise ImageError(f"array of shape {array.shape}: the image is empty; it needs at least one pixel")


@contextmanager
def _opened_file(name: str) -> Iterator[IO[bytes]]:
    try:
        mode = os.stat(name).st_mode
        # Opening a pipe without a writer would wait for ever. The system refuses to open a folder.
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            raise ImageError(f"{name}: is not a regular file; save what it gives to a file, or pass its bytes")
        file = open(name, "rb")  # noqa: SIM115
    except FileNotFoundError as error:
        raise ImageError(f"{name}: no such file; check the path") from error
    except ImageError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ImageError(f"{name}: cannot be opened ({reason}); check that it is a readable file") from error
    with file:
        yield file


def _identified(file: IO[bytes], filename: str, name: str, limit: int) -> Image.Image:
    """An opened image whose header has been read and whose pixels have not."""
    try:
        image = open_unlimited(file, filename)
        check_size(image.size, name, limit)
        return image
    except ImageError:
        raise
    except Image.DecompressionBombError as error:  # some plugins check the limit by themselves
        raise ImageError(
            f"{name}: Pillow's reader of this format refuses so many pixels ({error}); scale the image down first, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS"
        ) from error
    except UnidentifiedImageError as error:
        file.seek(0)
        if not file.read(1):
            raise ImageError(f"{name}: the file is empty (0 bytes); fetch or save it again") from error
        raise ImageError(f"{name}: {advice(file)}") from error
    except OSError as error:
        raise ImageError(
            f"{name}: cannot be opened ({error.strerror or error}); check that it is a readable file"
        ) from error
    except Exception as error:  # a damaged header can make a Pillow plugin raise anything
        raise ImageError(f"{name}: the image's header is damaged ({error}); fetch or save the file again") from error
