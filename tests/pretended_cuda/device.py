"""What a worker process asks of the pretended device, and arrays that lie on it."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from engines.device.cuda import Cuda
from pretended_cuda.libraries import DRIVER


class Device:
    """The pretended device of this process, whose libraries have to be the first on LD_LIBRARY_PATH."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(DRIVER)
        for name in ("used", "most_used", "pinned", "handles"):
            getattr(self._library, f"pretended_{name}").restype = ctypes.c_size_t
        self._library.pretended_met.restype = ctypes.c_bool
        self.cuda = Cuda(0)

    def section(self, name: str) -> None:
        """Begin a section of the log."""
        self._library.pretended_note(f"-- {name}".encode())

    @contextmanager
    def meeting(self, threads: int) -> Iterator[None]:
        """So many threads wait for each other at the first kernel that each of them launches inside: their runs overlap.

        Raises:
            RuntimeError: at the end, if they did not all come there while the others waited.
        """
        self._library.pretended_meet(ctypes.c_size_t(threads))
        yield
        if not self._library.pretended_met():
            raise RuntimeError(f"{threads} threads did not launch kernels at the same time")

    @property
    def used(self) -> int:
        """Bytes of device memory that are allocated."""
        return int(self._library.pretended_used())

    @property
    def most_used(self) -> int:
        """The most bytes of device memory that ever were."""
        return int(self._library.pretended_most_used())

    def left(self) -> dict[str, int]:
        """What is allocated: bytes of the device, blocks of pinned host memory, handles of each kind."""
        kinds = ("stream", "event", "graph", "executable")
        handles = {kind: int(self._library.pretended_handles(kind.encode())) for kind in kinds}
        return {"bytes": self.used, "pinned": int(self._library.pretended_pinned()), **handles}


class DeviceRows:
    """Rows of an array in device memory, for libraries that know the CUDA array interface."""

    def __init__(self, device: Device, rows: np.ndarray) -> None:
        self._cuda = device.cuda
        self.shape, self.dtype = rows.shape, rows.dtype
        with self._cuda.current():
            self.address = self._cuda.allocate(rows.nbytes)
        ctypes.memmove(self.address, rows.ctypes.data, rows.nbytes)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        data = (self.address, False)
        return {"version": 3, "shape": self.shape, "typestr": self.dtype.str, "data": data, "strides": None}

    def close(self) -> None:
        """Free them."""
        with self._cuda.current():
            self._cuda.free(self.address)
