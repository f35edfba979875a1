"""Arrays on a GPU, of any library: inputs and results without a copy, through DLPack or the CUDA array interface."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from engines.errors import EngineUnavailableError, InputError
from engines.process.optional import import_or_reason, loaded_class

_CUDA_DEVICE = 2  # kDLCUDA of dlpack.h
LEGACY_STREAM = 1  # 0 and 1 are both the legacy default stream; DLPack has only 1 for it


def device_of(value: Any) -> int | None:
    """The GPU on which an array lies; None if it lies on the CPU, or the value is no array."""
    place = getattr(value, "__dlpack_device__", None)
    if place is not None:
        try:
            kind, number = place()
        except (RuntimeError, ValueError, TypeError, BufferError):
            return None
        return int(number) if int(kind) == _CUDA_DEVICE else None
    return 0 if hasattr(value, "__cuda_array_interface__") else None


def current_stream(value: Any) -> int | None:
    """Torch's current stream on a torch tensor's device; None for other libraries' arrays."""
    tensor = loaded_class("torch", "Tensor")
    if tensor is not None and isinstance(value, tensor):
        handle: int = sys.modules["torch"].cuda.current_stream(value.device).cuda_stream
        return handle
    return None


def device_view(value: Any, stream: int) -> Any:
    """A view of an array on a GPU: `ptr`, `shape`, `dtype`, in the order of `stream`.

    Raises:
        InputError: the array is not contiguous, or cannot be viewed.
        EngineUnavailableError: cuda-core is missing or broken.
    """
    utils = _cuda_core_utils()
    try:
        view = utils.StridedMemoryView.from_any_interface(value, stream_ptr=stream)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"cannot read a {type(value).__name__} on the GPU ({error})") from error
    steps, expected = view.strides, 1
    for size, step in zip(reversed(view.shape), reversed(steps or ()), strict=False):
        if size != 1 and step != expected:
            raise InputError(f"the array {tuple(view.shape)} on the GPU is not contiguous: pass value.contiguous()")
        expected *= size
    return view


def check_device_rows(view: Any, dtype: np.dtype[Any], row: tuple[int | None, ...], device: int) -> int:
    """The number of rows in a view of `device_view`, if an engine can take them.

    Args:
        view: a view of the caller's array.
        dtype: dtype of the engine's input.
        row: sizes of one row; None where any size is right.
        device: the engine's GPU.

    Raises:
        InputError: the array has another dtype, shape or device, or no row.
    """
    fits = len(view.shape) == len(row) + 1 and all(
        size is None or size == given for size, given in zip(row, view.shape[1:], strict=True)
    )
    if np.dtype(view.dtype) != dtype or not fits:
        sizes = ", ".join("L" if size is None else str(size) for size in row)
        raise InputError(f"an array on the GPU must be {dtype} (N, {sizes}), not {view.dtype} {tuple(view.shape)}")
    if not view.shape[0]:
        raise InputError("there is no row: pass at least one")
    if view.device_id != device:
        raise InputError(f"the array is on GPU {view.device_id}, the engine on GPU {device}: move one of them")
    return int(view.shape[0])


class DeviceEmbeddings:
    """Embeddings (N, D) float32 on a GPU, for every library: ``torch.from_dlpack``, ``cupy.asarray``, ``jax.dlpack.from_dlpack``.

    Attributes:
        address: address of the first number.
        shape: (N, D).
        device: the GPU's number.
    """

    def __init__(
        self, address: int, shape: tuple[int, int], device: int, stream: int | None, free: Callable[[int], None]
    ) -> None:
        self.address = address
        self.shape = shape
        self.device = device
        self.dtype = np.dtype(np.float32)
        self._stream = stream
        self._free: Callable[[int], None] | None = free
        self._process = os.getpid()

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": "<f4",
            "data": (self.address, False),
            "strides": None,
            "stream": self._stream,
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA_DEVICE, self.device

    def __dlpack__(self, *, stream: int | None = None, **options: Any) -> Any:
        view = _cuda_core_utils().StridedMemoryView.from_cuda_array_interface(
            self, stream_ptr=-1 if stream is None else stream
        )
        return view.__dlpack__(stream=stream, **options)

    def close(self) -> None:
        """Free the memory; arrays that share it must not be used afterwards."""
        free, self._free = self._free, None
        if free is not None and os.getpid() == self._process:  # in a forked child there is nothing to free
            free(self.address)

    def __del__(self) -> None:
        if not sys.is_finalizing():
            self.close()


def like_device(result: DeviceEmbeddings, original: Any) -> Any:
    """`result` as the same kind of array as `original`, without a copy: a torch tensor for a torch tensor, and so on."""
    tensor = loaded_class("torch", "Tensor")
    if tensor is not None and isinstance(original, tensor):
        return sys.modules["torch"].as_tensor(result, device=f"cuda:{result.device}")
    array = loaded_class("cupy", "ndarray")
    if array is not None and isinstance(original, array):
        return sys.modules["cupy"].asarray(result)
    return result


def _cuda_core_utils() -> ModuleType:
    utils = import_or_reason("cuda.core.utils", "cuda-core", "pip install 'openclip-engines[gpu]'")
    if isinstance(utils, str):
        raise EngineUnavailableError(f"arrays on the GPU cannot be read: {utils}")
    return utils
