"""The CUDA driver calls that serving needs, through NVIDIA's bindings (``cuda.bindings.driver``), with errors that say what to do.

Only one device is used per `Cuda`. Its primary context is shared with PyTorch, CuPy and everything else of the process that uses
the runtime API.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError, EngineUnavailableError
from engines.process.optional import import_or_reason

_NONBLOCKING = 1  # CU_STREAM_NON_BLOCKING
_NO_TIMING = 2  # CU_EVENT_DISABLE_TIMING
_PORTABLE = 1  # CU_MEMHOSTALLOC_PORTABLE
_OUT_OF_MEMORY = 2  # CUDA_ERROR_OUT_OF_MEMORY


class CudaError(EngineError):
    """A CUDA call failed."""


class OutOfDeviceMemoryError(CudaError):
    """The device has not as much memory left as was asked for.

    Attributes:
        needed: bytes asked for.
        free: bytes free at that time.
    """

    def __init__(self, needed: int, free: int) -> None:
        self.needed = needed
        self.free = free
        super().__init__(f"out of device memory: {needed} bytes needed, {free} free")


class Cuda:
    """One device.

    Args:
        device: its number within CUDA_VISIBLE_DEVICES.
        driver: module with the driver's calls; None is ``cuda.bindings.driver``.

    Raises:
        EngineUnavailableError: NVIDIA's bindings are missing or broken.
        CudaError: there is no such device.
    """

    def __init__(self, device: int = 0, driver: Any = None) -> None:
        if driver is None:
            driver = import_or_reason("cuda.bindings.driver", "cuda-bindings", "pip install 'openclip-engines[gpu]'")
            if isinstance(driver, str):
                raise EngineUnavailableError(driver)
        self._driver = driver
        self.device = device
        # Those of every run, looked up once: a run of one image costs tens of microseconds on the host.
        self._memcpy = driver.cuMemcpyAsync
        self._event_record, self._stream_wait = driver.cuEventRecord, driver.cuStreamWaitEvent
        self._graph_launch = driver.cuGraphLaunch
        self._call("cuInit", 0)
        self._handle = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._handle)

    def __del__(self) -> None:
        """Give the context back, once nothing that lies in it holds this object any more."""
        if getattr(self, "_context", None) is not None and not sys.is_finalizing():
            with suppress(Exception):
                self._driver.cuDevicePrimaryCtxRelease(self._handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device the calling thread's; every call below has to be inside."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    # Memory

    def allocate(self, size: int) -> int:
        """Device memory of that many bytes; its address.

        Raises:
            OutOfDeviceMemoryError: there is not as much left.
        """
        code, address = self._driver.cuMemAlloc(max(size, 1))
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError(size, self.memory()[0])
        self._check("cuMemAlloc", code)
        return int(address)

    def free(self, address: int) -> None:
        """Free memory of `allocate` once all work on the device is done: the driver waits for it.

        It does not wait where the memory is of `allocate_in_order`: that goes back by `free_in_order` only. To wait here
        (cuCtxSynchronize) would be no way out, because that breaks a capture that another thread has under way.
        """
        self._call("cuMemFree", address)

    def allocate_in_order(self, size: int, stream: int) -> int:
        """Device memory of the driver's pool, usable in the order of a stream: some microseconds, and nothing is waited for.

        Raises:
            OutOfDeviceMemoryError: there is not as much left.
        """
        code, address = self._driver.cuMemAllocAsync(max(size, 1), stream)
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError(size, self.memory()[0])
        self._check("cuMemAllocAsync", code)
        return int(address)

    def free_in_order(self, address: int, stream: int) -> None:
        """Give memory of `allocate_in_order` back once what is in the stream now is done."""
        self._call("cuMemFreeAsync", address, stream)

    def allocate_pinned(self, size: int) -> PinnedBuffer:
        """Host memory that the device copies from and to while the processor goes on."""
        return PinnedBuffer(self, int(self._call("cuMemHostAlloc", max(size, 1), _PORTABLE)), max(size, 1))

    def free_pinned(self, address: int) -> None:
        """Free pinned memory."""
        self._call("cuMemFreeHost", address)

    def memory(self) -> tuple[int, int]:
        """Free and total bytes of the device."""
        free, total = self._call("cuMemGetInfo")
        return int(free), int(total)

    def copy(self, target: int, source: int, size: int, stream: int) -> None:
        """Copy between any two addresses, host or device, in stream order."""
        (code,) = self._memcpy(target, source, size, stream)
        if code:
            self._check("cuMemcpyAsync", code)

    def clear(self, address: int, size: int, stream: int) -> None:
        """Set device memory to zero."""
        self._call("cuMemsetD8Async", address, 0, size, stream)

    # Streams, events, graphs

    def create_stream(self) -> int:
        """A stream that does not wait for the legacy default stream."""
        return int(self._call("cuStreamCreate", _NONBLOCKING))

    def destroy_stream(self, stream: int) -> None:
        """Destroy a stream."""
        self._call("cuStreamDestroy", stream)

    def wait_for_stream(self, stream: int) -> None:
        """Block until all work in the stream is done."""
        self._call("cuStreamSynchronize", stream)

    def create_event(self) -> int:
        """An event without timing."""
        return int(self._call("cuEventCreate", _NO_TIMING))

    def destroy_event(self, event: int) -> None:
        """Destroy an event."""
        self._call("cuEventDestroy", event)

    def record(self, event: int, stream: int) -> None:
        """The event happens when what is in the stream now is done."""
        (code,) = self._event_record(event, stream)
        if code:
            self._check("cuEventRecord", code)

    def wait_for_event(self, event: int) -> None:
        """Block until the event has happened."""
        self._call("cuEventSynchronize", event)

    def order_after(self, stream: int, event: int) -> None:
        """What comes into the stream from now on begins after the event."""
        (code,) = self._stream_wait(stream, event, 0)
        if code:
            self._check("cuStreamWaitEvent", code)

    def begin_capture(self, stream: int) -> None:
        """Record what comes into the stream instead of running it; other threads' calls are not affected."""
        self._call("cuStreamBeginCapture", stream, self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> Any | None:
        """What was recorded, ready to launch; None if something in it cannot be recorded."""
        code, graph = self._driver.cuStreamEndCapture(stream)
        if int(code) or not graph:
            return None
        try:
            code, executable = self._driver.cuGraphInstantiate(graph, 0)
            return None if int(code) else executable
        finally:
            self._call("cuGraphDestroy", graph)

    def launch(self, graph: Any, stream: int) -> None:
        """Run a recorded graph."""
        (code,) = self._graph_launch(graph, stream)
        if code:
            self._check("cuGraphLaunch", code)

    def destroy_graph(self, graph: Any) -> None:
        """Free a recorded graph."""
        self._call("cuGraphExecDestroy", graph)

    def _call(self, name: str, *arguments: Any) -> Any:
        code, *results = getattr(self._driver, name)(*arguments)
        self._check(name, code)
        return results[0] if len(results) == 1 else tuple(results)

    def _check(self, name: str, code: Any) -> None:
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError(0, 0)
        if int(code):
            _, text = self._driver.cuGetErrorString(code)
            words = text.decode() if isinstance(text, bytes) else str(text)
            raise CudaError(f"CUDA's {name} failed on device {self.device}: {words} (code {int(code)})")


class PinnedBuffer:
    """Pinned host memory.

    Attributes:
        address: of the first byte.
        bytes: (size,) uint8 view of it.
    """

    def __init__(self, cuda: Cuda, address: int, size: int) -> None:
        self._cuda = cuda
        self.address = address
        self.bytes: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def close(self) -> None:
        """Free it; `bytes` must not be used afterwards."""
        address, self.address = self.address, 0
        if address:
            self._cuda.free_pinned(address)
