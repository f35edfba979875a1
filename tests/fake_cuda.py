"""The CUDA driver's calls on host memory, and TensorRT's on ONNX Runtime: the runtime's own logic without a GPU.

Work in a stream happens at once, but a captured stream records it, as on a device. Every allocation is counted, and freed memory
is poisoned, so that a leak or a use after free shows.
"""

from __future__ import annotations

import ctypes
import itertools
import threading
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np


class CUresult(IntEnum):
    SUCCESS = 0
    INVALID_VALUE = 1
    OUT_OF_MEMORY = 2


class FakeDriver:
    """`cuda.bindings.driver` for one device with `capacity` bytes."""

    class CUstreamCaptureMode(IntEnum):
        CU_STREAM_CAPTURE_MODE_THREAD_LOCAL = 1

    def __init__(self, capacity: int = 1 << 30) -> None:
        self.capacity = capacity
        self.blocks: dict[int, Any] = {}
        self.in_order: set[int] = set()  # addresses of blocks that belong to the order of a stream
        self.pinned: dict[int, Any] = {}
        self.handles: set[int] = set()
        self.graphs: dict[int, list[Any]] = {}
        self.launched = 0
        self.captures: dict[int, list[Any]] = {}
        self.log: list[str] = []
        self._next = itertools.count(1)
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        return sum(size for _, size in self.blocks.values())

    def do(self, stream: int, work: Any) -> None:
        """Work in a stream: now, or recorded."""
        assert stream in self.handles, f"stream {stream} does not exist"
        if stream in self.captures:
            self.captures[stream].append(work)
        else:
            work()

    def cuInit(self, flags):
        return (CUresult.SUCCESS,)

    def cuDeviceGet(self, number):
        return CUresult.SUCCESS, number

    def cuDevicePrimaryCtxRetain(self, device):
        return CUresult.SUCCESS, "context"

    def cuDevicePrimaryCtxRelease(self, device):
        return (CUresult.SUCCESS,)

    def cuCtxPushCurrent(self, context):
        assert context == "context"
        return (CUresult.SUCCESS,)

    def cuCtxPopCurrent(self):
        return CUresult.SUCCESS, "context"

    def cuMemAlloc(self, size):
        with self._lock:
            if self.used + size > self.capacity:
                return CUresult.OUT_OF_MEMORY, 0
            block = (ctypes.c_uint8 * (size + 256))()
            ctypes.memset(block, 0xFF, size + 256)
            address = -(-ctypes.addressof(block) // 256) * 256  # as the driver aligns
            self.blocks[address] = (block, size)
            return CUresult.SUCCESS, address

    def cuMemFree(self, address):
        assert address not in self.in_order, "cuMemFree does not wait for the readers of memory from cuMemAllocAsync"
        return self._release(address)

    def _release(self, address):
        with self._lock:
            _block, size = self.blocks.pop(address)
            ctypes.memset(address, 0xFF, size)
        return (CUresult.SUCCESS,)

    def cuMemAllocAsync(self, size, stream):
        self._known(stream)
        code, address = self.cuMemAlloc(size)
        if code == CUresult.SUCCESS:
            self.in_order.add(address)
        return code, address

    def cuMemFreeAsync(self, address, stream):
        self._known(stream)
        self.in_order.remove(address)
        return self._release(address)

    def cuMemHostAlloc(self, size, flags):
        block = (ctypes.c_uint8 * size)()
        self.pinned[ctypes.addressof(block)] = block
        return CUresult.SUCCESS, ctypes.addressof(block)

    def cuMemFreeHost(self, address):
        del self.pinned[address]
        return (CUresult.SUCCESS,)

    def cuMemGetInfo(self):
        return CUresult.SUCCESS, self.capacity - self.used, self.capacity

    def cuMemcpyAsync(self, target, source, size, stream):
        self.do(stream, lambda: ctypes.memmove(target, source, size))
        return (CUresult.SUCCESS,)

    def cuMemsetD8Async(self, address, value, size, stream):
        self.do(stream, lambda: ctypes.memset(address, value, size))
        return (CUresult.SUCCESS,)

    def _create(self):
        with self._lock:
            handle = next(self._next)
            self.handles.add(handle)
        return CUresult.SUCCESS, handle

    def _destroy(self, handle):
        self.handles.remove(handle)
        return (CUresult.SUCCESS,)

    def _known(self, *handles):
        assert all(handle in self.handles for handle in handles)
        return (CUresult.SUCCESS,)

    def cuStreamCreate(self, flags):
        return self._create()

    def cuEventCreate(self, flags):
        return self._create()

    def cuStreamDestroy(self, stream):
        return self._destroy(stream)

    def cuEventDestroy(self, event):
        return self._destroy(event)

    def cuStreamSynchronize(self, stream):
        assert stream not in self.captures, "synchronizing a stream that is captured is an error"
        return self._known(stream)

    def cuEventSynchronize(self, event):
        return self._known(event)

    def cuEventRecord(self, event, stream):
        return self._known(event, stream)

    def cuStreamWaitEvent(self, stream, event, flags):
        return self._known(event, stream)

    def cuStreamBeginCapture(self, stream, mode):
        self._known(stream)
        self.captures[stream] = []
        return (CUresult.SUCCESS,)

    def cuStreamEndCapture(self, stream):
        return CUresult.SUCCESS, self.captures.pop(stream)

    def cuGraphInstantiate(self, graph, flags):
        code, handle = self._create()
        self.graphs[handle] = graph
        return code, handle

    def cuGraphDestroy(self, graph):
        return (CUresult.SUCCESS,)

    def cuGraphExecDestroy(self, graph):
        del self.graphs[graph]
        return self._destroy(graph)

    def cuGraphLaunch(self, graph, stream):
        self.launched += 1
        for work in self.graphs[graph]:
            self.do(stream, work)
        return (CUresult.SUCCESS,)

    def cuGetErrorString(self, code):
        return CUresult.SUCCESS, CUresult(code).name.encode()


class FakeTensorRT:
    """The parts of `tensorrt` that run an engine; the "plan" is the path of an ONNX file."""

    __name__ = "tensorrt"

    class ILogger:
        class Severity(IntEnum):
            INTERNAL_ERROR = 0
            ERROR = 1
            WARNING = 2

    class ExecutionContextAllocationStrategy(IntEnum):
        USER_MANAGED = 2

    def __init__(self, driver: FakeDriver, profiles, version: str = "10.13.0", capturable: bool = True) -> None:
        self.driver, self.profiles, self.__version__, self.capturable = driver, profiles, version, capturable
        self.shapes: list[tuple[int, ...]] = []
        self.workspace_per_row = 1000

    def Runtime(self, log):
        return FakeRuntime(self, log)


class FakeRuntime:
    def __init__(self, trt: FakeTensorRT, log) -> None:
        self.trt, self.log = trt, log

    def deserialize_cuda_engine(self, data: bytes):
        path = Path(data.decode(errors="replace"))
        if not path.is_file():
            self.log.log(self.trt.ILogger.Severity.ERROR, "the plan's header is wrong")
            return None
        return FakeEngine(self.trt, path, self.log)


class FakeEngine:
    def __init__(self, trt: FakeTensorRT, path: Path, log) -> None:
        import onnxruntime

        self.trt, self.log = trt, log
        self.session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def create_execution_context(self, strategy):
        assert strategy == self.trt.ExecutionContextAllocationStrategy.USER_MANAGED
        return FakeContext(self)


class FakeContext:
    def __init__(self, engine: FakeEngine) -> None:
        self.engine, self.addresses = engine, {}
        self.profile: int | None = None
        self.shape: tuple[int, ...] = ()
        self.memory = 0

    def set_optimization_profile_async(self, profile, stream):
        self.profile = profile
        return True

    def set_input_shape(self, name, shape):
        profile = self.engine.trt.profiles[self.profile]
        assert profile.batch.min <= shape[0] <= profile.batch.max, (shape, profile)
        if profile.length is not None:
            assert profile.length.min <= shape[1] <= profile.length.max
        self.shape = shape
        return True

    def update_device_memory_size_for_shapes(self):
        return self.engine.trt.workspace_per_row * self.shape[0]

    def set_device_memory(self, address, size):
        assert size >= self.update_device_memory_size_for_shapes()
        assert address in self.engine.trt.driver.blocks
        self.memory = address

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        trt, session, shape = self.engine.trt, self.engine.session, self.shape
        capturing = stream in trt.driver.captures
        if capturing and not trt.capturable:
            self.engine.log.log(trt.ILogger.Severity.ERROR, "operation not permitted when stream is capturing")
            return False
        inputs, outputs = session.get_inputs()[0], session.get_outputs()[0]
        source, target = self.addresses[inputs.name], self.addresses[outputs.name]
        assert source % 256 == target % 256 == 0, "TensorRT wants tensors at multiples of 256"
        dtype = {"tensor(uint8)": np.uint8, "tensor(int32)": np.int32, "tensor(float)": np.float32}[inputs.type]

        def work():
            trt.shapes.append(shape)
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            rows = np.frombuffer(ctypes.string_at(source, size), dtype=dtype).reshape(shape)
            embeds = session.run([outputs.name], {inputs.name: rows})[0].astype(np.float32)
            ctypes.memmove(target, embeds.ctypes.data, embeds.nbytes)

        trt.driver.do(stream, work)
        return True
