"""The CUDA driver calls that serving needs, through NVIDIA's bindings (``cuda.bindings.driver``), with errors that name a remedy.

A `Cuda` object uses one device. It shares the device's primary context with PyTorch, CuPy and all other users of the runtime API in
the process.
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
    """The device has less memory left than an allocation needs.

    Attributes:
        needed: bytes that the allocation needs.
        free: bytes that were free at that time.
    """

    def __init__(self, needed: int, free: int) -> None:
        self.needed = needed
        self.free = free
        super().__init__(f"out of device memory: {needed} bytes needed, {free} free")


class Cuda:
    """One device and its driver calls.

    Args:
        device: the device's number within CUDA_VISIBLE_DEVICES.
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
        # The calls of every run, looked up once because a run of one image costs only tens of microseconds on the host.
        self._memcpy = driver.cuMemcpyAsync
        self._event_record, self._stream_wait = driver.cuEventRecord, driver.cuStreamWaitEvent
        self._graph_launch = driver.cuGraphLaunch
        self._call("cuInit", 0)
        self._handle = self._call("cuDeviceGet", device)
        self._context = self._call("cuDevicePrimaryCtxRetain", self._handle)

    def __del__(self) -> None:
        """Release the context, because no object in it refers to this one any more."""
        if getattr(self, "_context", None) is not None and not sys.is_finalizing():
            with suppress(Exception):
                self._driver.cuDevicePrimaryCtxRelease(self._handle)

    @contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context current in the calling thread; every call below must be inside such a block."""
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    # Memory

    def allocate(self, size: int) -> int:
        """Allocate device memory of `size` bytes; returns its address.

        Raises:
            OutOfDeviceMemoryError: less memory is left.
        """
        code, address = self._driver.cuMemAlloc(max(size, 1))
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError(size, self.memory()[0])
        self._check("cuMemAlloc", code)
        return int(address)

    def free(self, address: int) -> None:
        """Free memory of `allocate` once all work on the device is done: the driver waits for the work.

        The driver does not wait for memory of `allocate_in_order`, so free that by `free_in_order` only. A wait here
        (cuCtxSynchronize) would not help, because it breaks a capture that runs in another thread.
        """
        self._call("cuMemFree", address)

    def allocate_in_order(self, size: int, stream: int) -> int:
        """Allocate memory of the driver's pool in the order of a stream: it takes some microseconds and waits for nothing.

        Raises:
            OutOfDeviceMemoryError: less memory is left.
        """
        code, address = self._driver.cuMemAllocAsync(max(size, 1), stream)
        if int(code) == _OUT_OF_MEMORY:
            raise OutOfDeviceMemoryError(size, self.memory()[0])
        self._check("cuMemAllocAsync", code)
        return int(address)

    def free_in_order(self, address: int, stream: int) -> None:
        """Free memory of `allocate_in_order` once the work that is in the stream now is done."""
        self._call("cuMemFreeAsync", address, stream)

    def allocate_pinned(self, size: int) -> PinnedBuffer:
        """Allocate host memory for copies from and to the device that run while the processor continues."""
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
        """Let the event happen when the work that is in the stream now is done."""
        (code,) = self._event_record(event, stream)
        if code:
            self._check("cuEventRecord", code)

    def wait_for_event(self, event: int) -> None:
        """Block until the event has happened."""
        self._call("cuEventSynchronize", event)

    def order_after(self, stream: int, event: int) -> None:
        """Let work that comes into the stream from now on begin after the event."""
        (code,) = self._stream_wait(stream, event, 0)
        if code:
            self._check("cuStreamWaitEvent", code)

    def begin_capture(self, stream: int) -> None:
        """Record the work that comes into the stream instead of running it; other threads' calls are not affected."""
        self._call("cuStreamBeginCapture", stream, self._driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)

    def end_capture(self, stream: int) -> Any | None:
        """The recorded graph, ready to launch; None if some of the work cannot be recorded."""
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
        address: address of the first byte.
        bytes: (size,) uint8 view of the memory.
    """

    def __init__(self, cuda: Cuda, address: int, size: int) -> None:
        self._cuda = cuda
        self.address = address
        self.bytes: npt.NDArray[np.uint8] = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def close(self) -> None:
        """Free the memory; `bytes` must not be used afterwards."""
        address, self.address = self.address, 0
        if address:
            self._cuda.free_pinned(address)
