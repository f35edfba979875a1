"""A tower in ONNX Runtime's CUDA provider: rows on the host or on the device, in the order of the caller's stream.

The session works in one stream, which belongs to the tower. For rows on the device this stream waits for the caller's stream by an
event, and the caller's stream waits for it by another event: nothing is copied, and the host waits for nothing. The price is that
runs of several threads follow each other, on the host as well as on the device, because with a user's stream ONNX Runtime has one
cuBLAS and one cuDNN handle for all runs of a session, and only one thread at a time may use a cuDNN handle.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from engines.device.cuda import Cuda, OutOfDeviceMemoryError
from engines.device.device_arrays import LEGACY_STREAM, DeviceEmbeddings, check_device_rows, device_view
from engines.errors import EngineError
from engines.manifest import BatchProfile, Engine
from engines.onnxruntime.binding import ArenaFullError, BoundSession, Room, run_in_parts
from engines.onnxruntime.cuda_graphs import CapturedShapes, GraphShape, fitting

_ROWS = 256  # largest number of rows in one run on the device
_ALIGNMENT = 16  # bytes to which inputs and outputs are aligned, because kernels load and store that much at a time
_NO_WAIT = ("disable_synchronize_execution_providers", "1")  # a run returns when its work is in the stream
_T = TypeVar("_T")


class OnnxRuntimeCudaTower:
    """A tower in an ONNX Runtime session on a GPU; many threads may call it, and their runs take turns.

    Args:
        cuda: the device.
        bound: the session, which works in `stream`.
        stream: handle of a stream that this tower owns from now on.
        engine: the manifest's entry.
        shapes: shapes to capture as CUDA graphs now; the session must have graphs enabled for them.

    Raises:
        EngineError: a shape cannot be captured, or there is no memory for it.
    """

    kind = "onnxruntime"
    on_gpu = True
    splits = False
    takes_device_arrays = True

    def __init__(
        self, cuda: Cuda, bound: BoundSession, stream: int, engine: Engine, shapes: Sequence[GraphShape] = ()
    ) -> None:
        self._cuda, self._bound, self._stream = cuda, bound, stream
        self.description = bound.description
        self.batch: BatchProfile = engine.batch
        self._no_wait = bound.options(_NO_WAIT)
        self._turn = threading.RLock()
        self._idle = threading.Condition()
        self._running, self._closed = 0, False
        self._thread: ThreadPoolExecutor | None = None
        self._graphs: CapturedShapes | None = None
        if shapes:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="onnxruntime-graphs")
            try:
                self._graphs = self._do(lambda: CapturedShapes(cuda, bound, stream, shapes))
            except BaseException:
                self.close()
                raise

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch on the host, in parts where memory is short; see `engines.runtimes.protocol.TowerRuntime`.

        Raises:
            EngineError: the run failed, the tower was closed, or there is no room even for one row.
        """
        with self._in_use():
            return self._do(lambda: self._run_host(inputs))

    def run_on_device(self, inputs: Any, stream: int | None = None) -> DeviceEmbeddings:
        """Embed (N, …) rows that lie on the GPU, without a copy to the host.

        Args:
            inputs: an array of any library with DLPack or the CUDA array interface, contiguous, of the tower's dtype and shape. N
                is any number: 256 rows run at a time, or fewer where memory is short.
            stream: handle of the caller's stream, in whose order the result is ready, without any wait. None: the result is ready
                when the call returns.

        Returns:
            (N, D) float32 on the GPU.

        Raises:
            InputError: the array has another dtype, shape or device.
            EngineError: see `run`.
        """
        with self._in_use(), self._cuda.current():
            stream = LEGACY_STREAM if stream == 0 else stream
            view = device_view(inputs, self._stream if stream is None else stream)
            return self._do(lambda: self._run_device(view, stream))

    def close(self) -> None:
        """Free the engine, once the runs that have begun are done; `run` fails afterwards."""
        with self._idle:
            if self._closed:
                return
            self._closed = True
            while self._running:
                self._idle.wait()
        if self._graphs is not None:
            self._do(self._graphs.close)
        if self._thread is not None:
            self._thread.shutdown()
        with self._cuda.current():
            self._cuda.wait_for_stream(self._stream)
            self._bound.close()  # before the stream, because the session works in it
            self._cuda.destroy_stream(self._stream)

    def _run_host(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        bound = self._bound
        tokens = inputs.shape[1] if bound.length is not None else None
        fits = inputs.dtype == bound.dtype and (tokens is not None or inputs.shape[1:] == bound.row)
        shape = self._graph(len(inputs), tokens, exact_tokens=False) if fits else None
        if shape is not None and self._graphs is not None:
            return self._graphs.embed_host(shape, inputs)
        return bound.run_in_parts(inputs, self._room())

    def _run_device(self, view: Any, stream: int | None) -> DeviceEmbeddings:
        bound, cuda = self._bound, self._cuda
        used = self._stream if stream is None else stream
        rows = check_device_rows(view, bound.dtype, bound.row, cuda.device)
        shape = tuple(int(size) for size in view.shape[1:])
        row_bytes = math.prod(shape) * bound.dtype.itemsize
        size = rows * bound.dim * 4
        address = self._allocated(
            lambda: cuda.allocate(size) if stream is None else cuda.allocate_in_order(size, stream)
        )
        result = DeviceEmbeddings(
            address, (rows, bound.dim), cuda.device, stream, functools.partial(self._free, stream)
        )

        def part(start: int, count: int) -> None:
            source, target = int(view.ptr) + start * row_bytes, address + start * bound.dim * 4
            graph = self._graph(count, shape[0] if bound.length is not None else None, exact_tokens=True)
            if graph is not None and self._graphs is not None:
                self._graphs.embed_on_device(graph, count, source, target)
            else:
                self._embed(source, target, (count, *shape), count * row_bytes)

        with self._in_order_of(used):
            run_in_parts(rows, _ROWS, part, self._room())
        if stream is None:
            cuda.wait_for_stream(used)
        return result

    def _embed(self, source: int, target: int, shape: tuple[int, ...], size: int) -> None:
        """One run on the data where it lies, or through temporary memory where an address is not aligned for the kernels."""
        cuda, stream, out = self._cuda, self._stream, shape[0] * self._bound.dim * 4
        blocks: list[int] = []
        try:
            read, write = source, target
            if source % _ALIGNMENT:
                blocks.append(read := self._allocated(lambda: cuda.allocate_in_order(size, stream)))
                cuda.copy(read, source, size, stream)
            if target % _ALIGNMENT:
                blocks.append(write := self._allocated(lambda: cuda.allocate_in_order(out, stream)))
            self._bound.run_bound(self._bound.bind(shape, read, write), shape, self._no_wait)
            if write != target:
                cuda.copy(target, write, out, stream)
        finally:
            for block in blocks:
                cuda.free_in_order(block, stream)

    @contextmanager
    def _in_order_of(self, stream: int) -> Iterator[None]:
        """Order the block's work in the tower's stream after the work that is in `stream` now, and before later work there."""
        if stream == self._stream:
            yield
            return
        event = self._cuda.create_event()
        try:
            self._cuda.record(event, stream)
            self._cuda.order_after(self._stream, event)
            try:
                yield
            finally:  # after an error, too, because work that was begun still uses the caller's memory
                self._cuda.record(event, self._stream)
                self._cuda.order_after(stream, event)
        finally:
            self._cuda.destroy_event(event)  # CUDA keeps the event until it has happened

    def _graph(self, rows: int, tokens: int | None, exact_tokens: bool) -> GraphShape | None:
        return None if self._graphs is None else fitting(self._graphs.shapes, rows, tokens, exact_tokens)

    def _room(self) -> Room | None:
        """The function that makes room for a run; None with graphs, because they work in the arena's idle memory."""
        return None if self._thread is not None else self._bound.room

    def _allocated(self, allocate: Callable[[], int]) -> int:
        try:
            return allocate()
        except OutOfDeviceMemoryError as error:
            raise ArenaFullError(f"{self.description} has no memory: {error}") from error

    def _do(self, work: Callable[[], _T]) -> _T:
        """Run `work` with the device current, one thread at a time; with graphs, in the one thread to which they belong."""

        def inside() -> _T:
            with self._turn, self._cuda.current():
                return work()

        return inside() if self._thread is None else self._thread.submit(inside).result()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._idle:
            if self._closed:
                raise EngineError("the engine was closed: load the bundle again")
            self._running += 1
        try:
            yield
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def _free(self, stream: int | None, address: int) -> None:
        with self._cuda.current():
            if stream is None:  # `free` waits for all work, because the streams that read the memory are not known
                self._cuda.free(address)
            else:
                self._cuda.free_in_order(address, stream)
