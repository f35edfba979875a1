"""A slot for one run of a TensorRT engine at a time: a stream with its buffers, execution contexts and CUDA graphs.

A slot keeps all of its allocations for the next run, within limits: the buffers are as large as the largest batch that was run, and
the graphs are limited in number and in bytes.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.device.cuda import Cuda, OutOfDeviceMemoryError, PinnedBuffer
from engines.errors import EngineError
from engines.tensorrt.library import last
from engines.tensorrt.shapes import Run, TowerShape

_ALIGNMENT = 256  # bytes to which TensorRT needs tensors' addresses aligned


@dataclass(frozen=True)
class GraphLimits:
    """Limits of a slot's CUDA graphs.

    Attributes:
        rows: largest batch that is captured; larger ones need no graph, because the GPU computes longer than the host launches.
        count: largest number of graphs.
        bytes: largest device memory of all graphs together.
    """

    rows: int = 16
    count: int = 32
    bytes: int = 256 << 20


class Slot:
    """A stream, buffers, contexts and graphs. Only one thread at a time may call its methods, with the device current.

    Args:
        cuda: the device.
        trt: the library's module.
        engine: the library's `ICudaEngine`.
        shape: the tower's input and output.
        graphs: limits of the CUDA graphs; None: no graphs.
        errors: the queue with the library's error messages.
    """

    def __init__(
        self, cuda: Cuda, trt: Any, engine: Any, shape: TowerShape, graphs: GraphLimits | None, errors: deque[str]
    ) -> None:
        self._cuda, self._trt, self._engine, self._shape = cuda, trt, engine, shape
        self._limits = graphs
        self._errors = errors
        self.stream = cuda.create_stream()
        self._done, self._ready = cuda.create_event(), cuda.create_event()
        self._contexts: dict[int, Any] = {}
        self._memory: dict[str, tuple[int, int]] = {}  # "input", "output", "workspace" -> address, bytes
        self._pinned: dict[str, PinnedBuffer] = {}
        self._graphs: OrderedDict[Run, tuple[Any, int]] = OrderedDict()  # shape -> graph and its bytes
        self._seen: set[Run] = set()

    def begin(self, run: Run, rows: npt.NDArray[Any]) -> None:
        """Start copying rows to the device, embedding them and copying the embeddings back.

        Args:
            run: the run, with the numbers of rows and tokens that are computed.
            rows: (run.rows, …), with at most run.length tokens.

        Raises:
            OutOfDeviceMemoryError: the device has no memory for this many rows; the slot stays usable, for smaller runs.
        """
        own_input, own_output = self._reserve(run)
        shape = self._shape.shape(run)
        pinned = self._host("input", self._shape.input_bytes(run))
        staged = pinned.bytes[: self._shape.input_bytes(run)].view(self._shape.dtype).reshape(shape)
        if rows.shape[1:] == shape[1:]:
            staged[: run.rows] = rows
        else:
            staged[: run.rows] = self._shape.pad
            staged[: run.rows, : rows.shape[1]] = rows
        staged[run.rows :] = staged[:1]  # any valid rows may fill up the batch, because their embeddings are dropped
        self._cuda.copy(own_input, pinned.address, self._shape.input_bytes(run), self.stream)
        self._execute(run)
        size = self._shape.output_bytes(run.rows)
        self._cuda.copy(self._host("output", size).address, own_output, size, self.stream)
        self._cuda.record(self._done, self.stream)

    def finish(self, run: Run, target: npt.NDArray[np.float32]) -> None:
        """Wait for the work that `begin` started, and copy the embeddings to `target` (run.rows, D)."""
        self._cuda.wait_for_event(self._done)
        size = self._shape.output_bytes(run.rows)
        target[:] = self._pinned["output"].bytes[:size].view(np.float32).reshape(run.rows, self._shape.dim)

    def embed_on_device(self, run: Run, source: int, target: int, stream: int) -> None:
        """Embed rows that lie on the device, in the order of a stream and without a wait.

        A batch that fills its bucket and is too large for a CUDA graph is read and written where it lies, if its addresses are
        aligned (an allocation's are; a slice's may not be). Other batches are copied to and from the slot's own buffers on the
        device, because the graphs contain the addresses of these.

        Args:
            run: the run, with the number of rows that are computed.
            source: address of the rows, contiguous.
            target: address for their embeddings.
            stream: handle of the slot's or the caller's stream: the work begins after it, and it waits for the work.

        Raises:
            OutOfDeviceMemoryError: see `begin`.
        """
        if stream != self.stream:
            self._cuda.record(self._ready, stream)
            self._cuda.order_after(self.stream, self._ready)
        aligned = source % _ALIGNMENT == 0 and target % _ALIGNMENT == 0
        if aligned and run.rows == run.batch and not self._wants_graph(run):
            self._launch(self._prepare(run, source, target))
        else:
            own_input, own_output = self._reserve(run)
            self._cuda.copy(own_input, source, self._shape.input_bytes(run) // run.batch * run.rows, self.stream)
            self._execute(run)
            self._cuda.copy(target, own_output, self._shape.output_bytes(run.rows), self.stream)
        self._cuda.record(self._done, self.stream)
        if stream != self.stream:
            self._cuda.order_after(stream, self._done)

    def wait(self) -> None:
        """Block until the slot's last run is done."""
        self._cuda.wait_for_event(self._done)

    def close(self) -> None:
        """Wait for the last run, and free everything."""
        self._cuda.wait_for_stream(self.stream)
        self._drop_graphs()
        self._contexts.clear()
        for address, _ in self._memory.values():
            self._cuda.free(address)
        self._memory.clear()
        for buffer in self._pinned.values():
            buffer.close()
        self._pinned.clear()
        self._cuda.destroy_event(self._done)
        self._cuda.destroy_event(self._ready)
        self._cuda.destroy_stream(self.stream)

    def _execute(self, run: Run) -> None:
        """Embed from the slot's input buffer to its output buffer: by a CUDA graph if there is one or one can be captured."""
        key = Run(0, 0, run.profile, run.batch, run.length)
        graph = self._graphs.get(key)
        if graph is not None:
            self._graphs.move_to_end(key)
            self._cuda.launch(graph[0], self.stream)
            return
        context = self._prepare(run, self._memory["input"][0], self._memory["output"][0])
        if key in self._seen:
            captured = self._capture(context, key)
            if captured is not None:
                self._cuda.launch(captured, self.stream)
                return
        self._launch(context)
        if self._wants_graph(run):
            self._seen.add(key)  # only a shape's second run is captured, because the first one also sets up the library

    def _prepare(self, run: Run, source: int, target: int) -> Any:
        """The profile's context with the input's shape, the addresses, and its working memory set."""
        context = self._context(run.profile)
        context.set_input_shape(self._shape.input, self._shape.shape(run))
        needed = int(context.update_device_memory_size_for_shapes())
        address, size = self._device("workspace", needed)
        context.set_device_memory(address, size)
        context.set_tensor_address(self._shape.input, source)
        context.set_tensor_address(self._shape.output, target)
        return context

    def _launch(self, context: Any) -> None:
        if context.execute_async_v3(self.stream):
            return
        words = last(self._errors)
        if "memory" in words.lower() and "out" in words.lower():
            raise OutOfDeviceMemoryError(0, self._cuda.memory()[0])
        raise EngineError(f"the engine failed: {words}")

    def _capture(self, context: Any, key: Run) -> Any | None:
        """A CUDA graph of the prepared run, which is kept within the limits; None if the run cannot be captured."""
        if self._limits is None:
            return None
        capturable = getattr(context, "is_stream_capturable", None)  # TensorRT-RTX: False while it still compiles
        if capturable is not None and not capturable(self.stream):
            return None
        before = self._cuda.memory()[0]
        self._cuda.begin_capture(self.stream)
        try:
            captured = context.execute_async_v3(self.stream)
        finally:
            graph = self._cuda.end_capture(self.stream)
        if graph is None or not captured:
            if graph is not None:
                self._cuda.destroy_graph(graph)
            self._limits = None  # this engine cannot be captured, so later runs do not try it
            self._seen.clear()
            return None
        taken = max(0, before - self._cuda.memory()[0])
        self._graphs[key] = (graph, taken)
        while len(self._graphs) > 1 and (
            len(self._graphs) > self._limits.count
            or sum(size for _, size in self._graphs.values()) > self._limits.bytes
        ):
            _, (oldest, _) = self._graphs.popitem(last=False)
            self._cuda.destroy_graph(oldest)
        return graph

    def _wants_graph(self, run: Run) -> bool:
        return self._limits is not None and run.batch <= self._limits.rows

    def _context(self, profile: int) -> Any:
        """The execution context of a profile; all contexts of a slot use the same memory, one at a time."""
        if profile not in self._contexts:
            context = _create_context(self._trt, self._engine)
            if context is None:
                raise OutOfDeviceMemoryError(0, self._cuda.memory()[0])
            if not context.set_optimization_profile_async(profile, self.stream):
                raise EngineError(f"the engine refuses its profile {profile}: {last(self._errors)}")
            self._cuda.wait_for_stream(self.stream)
            self._contexts[profile] = context
        return self._contexts[profile]

    def _reserve(self, run: Run) -> tuple[int, int]:
        """Addresses of input and output buffers that are large enough."""
        source, _ = self._device("input", self._shape.input_bytes(run))
        target, _ = self._device("output", self._shape.output_bytes(run.batch))
        return source, target

    def _device(self, name: str, size: int) -> tuple[int, int]:
        """A device buffer of at least `size` bytes. Growing one drops the graphs, because they contain its address."""
        address, present = self._memory.get(name, (0, 0))
        if size <= present and address:
            return address, present
        self._cuda.wait_for_stream(self.stream)
        self._drop_graphs()
        if address:
            del self._memory[name]
            self._cuda.free(address)
        address = self._cuda.allocate(size)
        self._memory[name] = (address, max(size, 1))
        if name == "input":
            self._cuda.clear(address, max(size, 1), self.stream)
        return self._memory[name]

    def _host(self, name: str, size: int) -> PinnedBuffer:
        buffer = self._pinned.get(name)
        if buffer is None or len(buffer.bytes) < size:
            if buffer is not None:
                self._cuda.wait_for_stream(self.stream)
                buffer.close()
                del self._pinned[name]
            self._pinned[name] = self._cuda.allocate_pinned(size)
        return self._pinned[name]

    def _drop_graphs(self) -> None:
        for graph, _ in self._graphs.values():
            self._cuda.destroy_graph(graph)
        self._graphs.clear()
        self._seen.clear()


def _create_context(trt: Any, engine: Any) -> Any:
    """An execution context that uses working memory of the slot."""
    strategy = trt.ExecutionContextAllocationStrategy.USER_MANAGED
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context(strategy)
    # TensorRT-RTX compiles kernels at a shape's first run: EAGER does so at once, so that no graph captures temporary kernels.
    config = engine.create_runtime_config()
    config.set_execution_context_allocation_strategy(strategy)
    config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(config)
