"""The C API of ``engines/cpp`` by ctypes: the functions of ``clip.h`` as a class, with the exceptions of `engines.errors`."""

from __future__ import annotations

import ctypes
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines import errors

_ERRORS = {
    1: errors.EngineError,
    2: errors.BundleError,
    3: errors.SchemaVersionError,
    4: errors.EngineUnavailableError,
    5: errors.InputError,
    6: errors.ImageError,
    7: MemoryError,
    8: AssertionError,
}
_LOG = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p)
_FAILURE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_char_p)
IMAGE, TEXT = 1, 2


class _Options(ctypes.Structure):
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
        ("log", _LOG),
        ("log_user", ctypes.c_void_p),
        ("fast_decode", ctypes.c_int32),
        ("plain_files", ctypes.c_int32),
    )


class Info(ctypes.Structure):
    """``oce_info``."""

    _fields_ = (
        ("size", ctypes.c_size_t),
        ("towers", ctypes.c_uint32),
        ("embed_dim", ctypes.c_int32),
        ("image_height", ctypes.c_int32),
        ("image_width", ctypes.c_int32),
        ("context_length", ctypes.c_int32),
        ("has_logit_bias", ctypes.c_int32),
        ("logit_scale", ctypes.c_double),
        ("logit_bias", ctypes.c_double),
    )


class _Image(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("height", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
        ("stride", ctypes.c_int64),
        ("data", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
    )


class _Text(ctypes.Structure):
    _fields_ = (("data", ctypes.c_char_p), ("bytes", ctypes.c_size_t))


class CppLibrary:
    """The loaded library.

    Args:
        path: path of ``libopenclip_engines.so``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.api = ctypes.CDLL(str(path))
        self.api.oce_last_error.restype = ctypes.c_char_p
        self.api.oce_status_name.restype = ctypes.c_char_p
        self.api.oce_clip_engine.restype = ctypes.c_char_p

    def check(self, status: int) -> None:
        """Raise the exception of a status."""
        if status:
            raise _ERRORS[status](self.api.oce_last_error().decode("utf-8", "surrogateescape"))

    def open(self, path: str | os.PathLike[str], **options: Any) -> CppClip:
        """Open a bundle; the options are fields of ``oce_options``, and ``log``, a function of level and line."""
        return CppClip(self, path, options)

    def inspect(self, path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
        """The JSON of ``oce_inspect``."""
        return self._json(self.api.oce_inspect, path, options)

    def verify(self, path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
        """The JSON of ``oce_verify``."""
        return self._json(self.api.oce_verify, path, options)

    def options(self, values: dict[str, Any]) -> _Options:
        """``oce_options`` with the given fields."""
        options = _Options()
        self.api.oce_options_init(ctypes.byref(options), ctypes.sizeof(options))
        for name, value in values.items():
            if name == "log":
                value = _LOG(lambda _, level, line, log=value: log(level, line.decode()))
            setattr(options, name, os.fsencode(value) if isinstance(value, (str, Path)) else value)
        return options

    def _json(self, function: Any, path: str | os.PathLike[str], options: dict[str, Any]) -> dict[str, Any]:
        text = ctypes.c_char_p()
        self.check(function(os.fsencode(path), ctypes.byref(self.options(options)), ctypes.byref(text)))
        assert text.value is not None
        value: dict[str, Any] = json.loads(text.value)
        self.api.oce_string_free(text)
        return value


class CppClip:
    """An opened bundle; a context manager."""

    def __init__(self, library: CppLibrary, path: str | os.PathLike[str], options: dict[str, Any]) -> None:
        self.library, self._api = library, library.api
        self._handle = ctypes.c_void_p()
        given = library.options(options)
        library.check(self._api.oce_clip_open(os.fsencode(path), ctypes.byref(given), ctypes.byref(self._handle)))
        self.info = Info()
        self.info.size = ctypes.sizeof(Info)
        library.check(self._api.oce_clip_info(self._handle, ctypes.byref(self.info)))

    def __enter__(self) -> CppClip:
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def close(self) -> None:
        """Free the object."""
        self._api.oce_clip_close(self._handle)
        self._handle = ctypes.c_void_p()

    def engine(self, tower: int) -> str | None:
        """Description of a tower's engine; None if it is not open."""
        text = self._api.oce_clip_engine(self._handle, tower)
        return None if text is None else text.decode()

    def encode_images(self, images: Sequence[Any], failures: dict[int, str] | None = None) -> npt.NDArray[np.float32]:
        """Embed paths, bytes or uint8 arrays (H, W, 3). `failures` receives the messages of unreadable images by index."""
        embeds = np.empty((len(images), self.info.embed_dim), np.float32)
        self._with_images(self._api.oce_encode_images, images, embeds, failures)
        return embeds

    def preprocess(self, images: Sequence[Any], failures: dict[int, str] | None = None) -> npt.NDArray[np.uint8]:
        """Pixels (N, H, W, 3) of images."""
        pixels = np.empty((len(images), self.info.image_height, self.info.image_width, 3), np.uint8)
        self._with_images(self._api.oce_preprocess, images, pixels, failures)
        return pixels

    def encode_pixels(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embed pixels (N, H, W, 3)."""
        return self._embeds(self._api.oce_encode_pixels, len(pixels), _address(pixels), ctypes.c_size_t(len(pixels)))

    def encode_ids(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Embed token ids (N, L)."""
        counts = (ctypes.c_size_t(len(ids)), ctypes.c_size_t(ids.shape[1]))
        return self._embeds(self._api.oce_encode_ids, len(ids), _address(ids), *counts)

    def encode_texts(self, texts: Sequence[str | bytes]) -> npt.NDArray[np.float32]:
        """Embed texts."""
        return self._embeds(self._api.oce_encode_texts, len(texts), _texts(texts), ctypes.c_size_t(len(texts)))

    def encode_labels(self, labels: Sequence[str], templates: Sequence[str] = ()) -> npt.NDArray[np.float32]:
        """Embeddings of labels."""
        given = (_texts(labels), ctypes.c_size_t(len(labels)), _texts(templates), ctypes.c_size_t(len(templates)))
        return self._embeds(self._api.oce_encode_labels, len(labels), *given)

    def probabilities(
        self, images: npt.NDArray[np.float32], labels: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float32]:
        """Probabilities (N, M) of embeddings."""
        result = np.empty((len(images), len(labels)), np.float32)
        given = (_address(images), ctypes.c_size_t(len(images)), _address(labels), ctypes.c_size_t(len(labels)))
        self.library.check(self._api.oce_probabilities(self._handle, *given, *_room(result)))
        return result

    def tokenize(self, texts: Sequence[str | bytes]) -> npt.NDArray[np.int32]:
        """Token ids (N, context length)."""
        ids = np.empty((len(texts), self.info.context_length), np.int32)
        self.library.check(
            self._api.oce_tokenize(self._handle, _texts(texts), ctypes.c_size_t(len(texts)), *_room(ids))
        )
        return ids

    def _embeds(self, function: Any, count: int, *given: Any) -> npt.NDArray[np.float32]:
        embeds = np.empty((count, self.info.embed_dim), np.float32)
        self.library.check(function(self._handle, *given, *_room(embeds)))
        return embeds

    def _with_images(
        self, function: Any, images: Sequence[Any], result: npt.NDArray[Any], failures: dict[int, str] | None
    ) -> None:
        structs, kept = _images(images)
        note: Callable[..., None] = lambda _, index, status, message: failures.__setitem__(index, message.decode())  # type: ignore[union-attr]  # noqa: E731
        callback = _FAILURE() if failures is None else _FAILURE(note)
        sizes = (ctypes.c_size_t(ctypes.sizeof(_Image)), ctypes.c_size_t(len(images)))
        self.library.check(function(self._handle, structs, *sizes, *_room(result), callback, None))
        del kept


def _images(images: Sequence[Any]) -> tuple[Any, list[Any]]:
    structs, kept = (_Image * len(images))(), []
    for struct, image in zip(structs, images, strict=True):
        if isinstance(image, np.ndarray):
            data: Any = image if image.strides[0] > 0 and image.strides[1:] == (3, 1) else np.ascontiguousarray(image)
            kept.append(data)
            struct.kind, struct.height, struct.width = 2, data.shape[0], data.shape[1]
            struct.stride, struct.bytes = data.strides[0], (data.shape[0] - 1) * data.strides[0] + data.shape[1] * 3
            struct.data = data.ctypes.data
        else:
            data = image if isinstance(image, bytes) else os.fsencode(image)
            kept.append(data)
            struct.kind = 1 if isinstance(image, bytes) else 0
            struct.data, struct.bytes = ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data)
    return structs, kept


def _texts(texts: Sequence[str | bytes]) -> Any:
    structs = (_Text * len(texts))()
    for struct, text in zip(structs, texts, strict=True):
        data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        struct.data, struct.bytes = data, len(data)
    return structs


def _address(array: npt.NDArray[Any]) -> ctypes.c_void_p:
    assert array.flags.c_contiguous
    return ctypes.c_void_p(array.ctypes.data)


def _room(array: npt.NDArray[Any]) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    return _address(array), ctypes.c_size_t(array.size)
