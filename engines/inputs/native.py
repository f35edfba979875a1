"""Decoding of images in the project's C++ library (docs/cpp.md) through its C API, without Python's lock.

The library gives the pixels of `engines.inputs.preprocess`, to the bit, for JPEG, PNG and WebP files that hold nothing unusual, and
for RGB arrays. The caller reads all other images with Pillow, so the two together accept the same files with the same messages.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from engines.errors import EngineError, InputError
from engines.inputs.image_inputs import PrivateImage, pixel_limit
from engines.manifest import Preprocess

VARIABLE = "OPENCLIP_ENGINES_LIBRARY"
NAME = "libopenclip_engines.so.0"
VERSION = (0, 1)  # major and minor of this package; a library with others may have other structs or pixels
REMEDY = f"build it with `make cpp` and set {VARIABLE} to its path, or choose the decoder 'pillow'"

DecoderName: TypeAlias = Literal["auto", "pillow", "native"]
NativeImage: TypeAlias = "str | bytes | npt.NDArray[np.uint8]"

_PILLOW_DEFAULT = 89_478_485  # PIL.Image.MAX_IMAGE_PIXELS, where nobody changed it
_IMAGE_TOWER = 1
_FAILURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p)


class _Options(ctypes.Structure):
    """``oce_options`` of clip.h."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("engine", ctypes.c_char_p),
        ("device", ctypes.c_char_p),
        ("towers", ctypes.c_uint32),
        ("workers", ctypes.c_int32),
        ("max_pixels", ctypes.c_int64),
        ("threads", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("cuda_memory_limit", ctypes.c_int64),
        ("allow_cpu_nodes", ctypes.c_int32),
        ("module_folder", ctypes.c_char_p),
        ("engine_library", ctypes.c_char_p),
        ("log", ctypes.c_void_p),
        ("log_user", ctypes.c_void_p),
        ("fast_decode", ctypes.c_int32),
        ("plain_files", ctypes.c_int32),
    )


class _Image(ctypes.Structure):
    """``oce_image`` of clip.h. `data` takes bytes, which the array of structs then keeps alive, or an address."""

    _fields_ = (
        ("kind", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("stride", ctypes.c_int64),
        ("data", ctypes.c_char_p),
        ("bytes", ctypes.c_size_t),
    )


@dataclass(frozen=True)
class Library:
    """The loaded C++ library.

    Attributes:
        api: its functions.
        version: such as ``0.1.0``.
    """

    api: Any
    version: str


def find_library() -> Library | str:
    """The C++ library, or the reason why there is none: the path in OPENCLIP_ENGINES_LIBRARY, else the dynamic loader's search.

    Raises:
        EngineError: OPENCLIP_ENGINES_LIBRARY is set and names no usable library.
    """
    path = os.environ.get(VARIABLE)
    if not path:
        return _loaded(NAME)
    library = _loaded(os.path.abspath(path))
    if isinstance(library, str):
        raise EngineError(f"{VARIABLE} is {path!r}: {library}; correct it, or unset it")
    return library


def _loaded(name: str) -> Library | str:
    try:
        api = ctypes.CDLL(name)
        number = int(api.oce_version())
        api.oce_last_error.restype = ctypes.c_char_p
        api.oce_options_size.restype = ctypes.c_size_t
        known = int(api.oce_options_size())
        pointer, count = ctypes.c_void_p, ctypes.c_size_t
        api.oce_options_init.argtypes, api.oce_options_init.restype = [pointer, count], None
        api.oce_clip_open.argtypes = [ctypes.c_char_p, pointer, pointer]
        api.oce_clip_close.argtypes, api.oce_clip_close.restype = [pointer], None
        api.oce_preprocess.argtypes = [pointer, pointer, count, count, pointer, count, _FAILURE, pointer]
    except OSError as error:
        return f"the C++ library cannot be loaded ({error})"
    except AttributeError as error:
        return f"it is not this release's C++ library ({error})"
    version = f"{number // 10000}.{number // 100 % 100}.{number % 100}"
    if (number // 10000, number // 100 % 100) != VERSION:
        return f"the C++ library is version {version}, and this package needs {'.'.join(map(str, VERSION))}"
    if known < ctypes.sizeof(_Options):
        return f"the C++ library {version} was built from earlier code, without options that this package needs"
    return Library(api, version)


class NativeDecoder:
    """A bundle that the C++ library has opened to preprocess images; many threads may call it. Not for a forked child.

    Args:
        library: result of `find_library`.
        bundle: the bundle's folder, with an image tower.
        config: the checkpoint's transform, the bundle's own.
        workers: number of the library's threads.
        max_pixels: argument of `engines.inputs.image_inputs.pixel_limit`.
        fast_decode: see `engines.load`.

    Raises:
        EngineError: the library cannot open the bundle.
    """

    def __init__(
        self,
        library: Library,
        bundle: str | os.PathLike[str],
        config: Preprocess,
        workers: int,
        max_pixels: int | None = None,
        fast_decode: bool = False,
    ) -> None:
        self._api, self._size, self._max_pixels = library.api, config.size, max_pixels
        self._limit = pixel_limit(max_pixels)
        self._process, self._lock, self._running, self._closed = os.getpid(), threading.Lock(), 0, False
        self._handle = ctypes.c_void_p()
        options = _Options()
        self._api.oce_options_init(ctypes.byref(options), ctypes.sizeof(options))
        options.engine, options.towers, options.workers = b"none", _IMAGE_TOWER, min(workers, 2**31 - 1)
        options.max_pixels = min(self._limit, 2**63 - 1)
        options.fast_decode, options.plain_files = int(fast_decode), 1
        if self._api.oce_clip_open(os.fsencode(bundle), ctypes.byref(options), ctypes.byref(self._handle)):
            words = self._api.oce_last_error().decode("utf-8", "replace")
            raise EngineError(f"the C++ library cannot open {Path(bundle)} ({words}): choose the decoder 'pillow'")

    def takes(self, image: PrivateImage) -> bool:
        """Whether the library may read an image: a path, bytes, or an array whose rows have no gaps between their pixels."""
        if isinstance(image, np.ndarray):
            height, width = image.shape[:2]
            rows = height == 1 or image.strides[0] >= 3 * width
            return rows and image.strides[1:] == (3, 1) and 0 < height < 2**31 and 0 < width < 2**31
        return isinstance(image, bytes) or (isinstance(image, str) and _is_file_name(image))

    def preprocess(self, images: Sequence[NativeImage]) -> tuple[npt.NDArray[np.uint8], list[int]]:
        """Pixels of images for which `takes` is true.

        Args:
            images: at least one.

        Returns:
            Pixels (N, H, W, 3) uint8, and the indices of the images that Pillow must read, in any order; their pixels mean nothing.

        Raises:
            EngineError: the decoder was closed.
        """
        height, width = self._size
        pixels = np.empty((len(images), height, width, 3), np.uint8)
        everything = list(range(len(images)))
        # Pillow's own limits hold where they are lower than this process had them when the bundle was opened.
        pillows = Image.MAX_IMAGE_PIXELS
        if pixel_limit(self._max_pixels) != self._limit or (pillows is not None and pillows < _PILLOW_DEFAULT):
            return pixels, everything
        structs = (_Image * len(images))()
        for struct, image in zip(structs, images, strict=True):
            _fill(struct, image)
        failed: list[int] = []
        note = _FAILURE(lambda _user, index, _status, _message: failed.append(index))
        with self._lock:
            if self._closed:
                raise EngineError("the embedder was closed: load the bundle again")
            self._running += 1
        try:
            status = self._api.oce_preprocess(
                self._handle, structs, ctypes.sizeof(_Image), len(images), pixels.ctypes.data, pixels.size, note, None
            )
        finally:
            with self._lock:
                self._running -= 1
            self._free_if_unused()
        return pixels, failed if status == 0 else everything

    def close(self) -> None:
        """Free the library's threads when the calls that run now have ended."""
        with self._lock:
            self._closed = True
        self._free_if_unused()

    def _free_if_unused(self) -> None:
        with self._lock:
            if not self._closed or self._running:
                return
            handle, self._handle = self._handle, ctypes.c_void_p()
        if os.getpid() == self._process:  # a child has no threads that could be ended
            self._api.oce_clip_close(handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self.close()


def _fill(struct: _Image, image: NativeImage) -> None:
    if isinstance(image, np.ndarray):
        height, width = image.shape[:2]
        stride = image.strides[0] if height > 1 else 3 * width
        struct.kind, struct.width, struct.height, struct.stride = 2, width, height, stride
        struct.data, struct.bytes = image.ctypes.data, (height - 1) * stride + 3 * width
        return
    data = image if isinstance(image, bytes) else os.fsencode(image)
    struct.kind, struct.data, struct.bytes = int(isinstance(image, bytes)), data, len(data)


def _is_file_name(text: str) -> bool:
    try:
        return bool(os.fsencode(text))
    except UnicodeEncodeError:
        return False


def check_decoder(name: str) -> str:
    """A caller's choice of the decoder.

    Raises:
        InputError: it is none of the valid ones.
    """
    if name not in ("auto", "pillow", "native"):
        raise InputError(f"decoder is {name!r}: pass 'auto', 'pillow' or 'native'")
    return name
