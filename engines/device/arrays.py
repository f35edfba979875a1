"""Arrays of other libraries: they are read through DLPack, and results are returned as the same kind of array."""

from __future__ import annotations

import sys
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from engines.errors import InputError
from engines.process.optional import loaded_class


class SupportsDLPack(Protocol):
    """An array or tensor of any library that supports DLPack, on the CPU or a GPU."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """The array as a capsule."""


ArrayT = TypeVar("ArrayT", bound=SupportsDLPack)


def as_numpy(value: Any) -> npt.NDArray[Any]:
    """A numpy view of an array or tensor, without a copy if it lies on the CPU.

    Raises:
        InputError: the value cannot be viewed.
    """
    if isinstance(value, np.ndarray):
        return value
    tensor: Any = loaded_class("torch", "Tensor")
    if tensor is not None and isinstance(value, tensor):
        value = value.cpu()
    try:
        return np.from_dlpack(value)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"cannot read a {type(value).__name__} through DLPack ({error}); pass it from the CPU"
        ) from error


def like(result: npt.NDArray[Any], original: Any) -> Any:
    """`result` as the same kind of array as `original`: a torch tensor for a torch tensor, numpy otherwise."""
    tensor: Any = loaded_class("torch", "Tensor")
    if tensor is not None and isinstance(original, tensor):
        return sys.modules["torch"].from_numpy(result).to(original.device)
    return result
