"""CUDA graphs of an ONNX Runtime session: the shapes that are captured, and their replay.

Facts about the library's CUDA provider (read in its sources; the first two seen with 1.28.0 and 1.31.1), and their consequences:

- A graph belongs to the thread that captured it; another thread's run of the same ``gpu_graph_id`` captures anew. So one thread of
  its own makes all runs of a session with graphs.
- A graph is captured in CUDA's global mode: until the capture ends, an allocation on the device by *any* thread of the process
  fails and breaks the capture. So shapes are captured when the tower is opened, and never while it serves.
- Inputs and outputs are read and written at the addresses of the capture. So there is one buffer for each, which all graphs share.
- The arena's memory in which a graph works is free for other runs as soon as the capture has ended. Consecutive runs in one stream
  may share it. But if the arena were shrunk, the graph would write into memory that is no longer its own, so the arena of such a
  session is never shrunk.
- Graphs cannot be freed one by one. So their number is fixed when the tower is opened.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.device.cuda import Cuda, PinnedBuffer
from engines.errors import EngineError, InputError
from engines.manifest import TextLength
from engines.onnxruntime.binding import BoundSession

DEFAULT_BATCHES = (1, 2, 4, 8)
_TOKENS = (16, 32)  # lengths of text that are captured besides the longest
_MOST = 64  # largest number of graphs for one tower
_ROWS = 1024  # number of rows in the largest possible graph
_CAPTURE_RUNS = 3  # a graph is captured by the third run at the latest
# Names of run options, and the graph id with which a run neither captures nor replays.
_GRAPH_ID, _NO_WAIT = "gpu_graph_id", ("disable_synchronize_execution_providers", "1")
WITHOUT_GRAPH = (_GRAPH_ID, "-1")


@dataclass(frozen=True)
class GraphShape:
    """A shape that is captured.

    Attributes:
        rows: number of rows in the batch.
        tokens: number of tokens in a text; None for images.
    """

    rows: int
    tokens: int | None = None


def graph_batches(wanted: bool | int | Iterable[int] | None) -> tuple[int, ...]:
    """Batch sizes to capture: none for False and None, `DEFAULT_BATCHES` for True, one for a number.

    Raises:
        InputError: a size is no whole number, is below 1 or too large for a graph.
    """
    if wanted is None or isinstance(wanted, (bool, np.bool_)):
        return DEFAULT_BATCHES if wanted else ()
    given: list[Any] = [wanted]
    if isinstance(wanted, Iterable):
        with suppress(TypeError):  # an array without dimensions counts as Iterable but is none
            given = list(wanted)
    for size in given:
        if isinstance(size, bool) or not isinstance(size, Integral) or not 1 <= int(size) <= _ROWS:
            raise InputError(f"cuda_graphs has the batch size {size!r}: pass whole numbers from 1 to {_ROWS}")
    return tuple(sorted({int(size) for size in given}))


def graph_shapes(batches: Sequence[int], length: TextLength | None) -> tuple[GraphShape, ...]:
    """The shapes to capture, smallest first.

    Args:
        batches: batch sizes that `graph_batches` returned.
        length: a text tower's lengths: the longest texts are captured, and where shorter ones are allowed, 16 and 32 tokens, too.

    Raises:
        InputError: the shapes are too many.
    """
    tokens: list[int | None] = [None]
    if length is not None:
        shorter = [] if length.keep == "fixed" else [size for size in _TOKENS if length.min <= size < length.max]
        tokens = [*shorter, length.max]
    shapes = tuple(GraphShape(rows, size) for rows in batches for size in tokens)
    if len(shapes) > _MOST:
        raise InputError(
            f"cuda_graphs has {len(batches)} batch sizes, of {len(tokens)} lengths each: pass at most {_MOST // len(tokens)}"
        )
    return shapes


def fitting(shapes: Sequence[GraphShape], rows: int, tokens: int | None, exact_tokens: bool) -> GraphShape | None:
    """The smallest captured shape that holds a batch; None if none does.

    Args:
        shapes: captured shapes, smallest batch first.
        rows: number of rows in the batch.
        tokens: number of tokens in a text; None for images.
        exact_tokens: whether texts cannot be filled up, so that the number of tokens must be equal.
    """
    for shape in shapes:
        if shape.rows < rows:
            continue
        if shape.tokens is None or tokens is None or shape.tokens == tokens:
            return shape
        if shape.tokens > tokens and not exact_tokens:
            return shape
    return None


class CapturedShapes:
    """The graphs of one tower. One and the same thread must call every method, with the device current.

    Args:
        cuda: the device.
        bound: the session, whose CUDA provider has graphs enabled and works in `stream`.
        stream: the stream's handle.
        shapes: shapes to capture.
    """

    def __init__(self, cuda: Cuda, bound: BoundSession, stream: int, shapes: Sequence[GraphShape]) -> None:
        self._cuda, self._bound, self._stream = cuda, bound, stream
        self.shapes = tuple(shapes)
        self._bindings: dict[GraphShape, tuple[Any, Any]] = {}  # binding, run options
        self._pinned: list[PinnedBuffer] = []
        self._buffers: list[int] = []
        try:
            self._allocate()
            for shape in reversed(self.shapes):  # the largest first, so that the arena grows once
                self._capture(shape)
        except BaseException:
            self.close()
            raise

    def embed_host(self, shape: GraphShape, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed rows on the host, which may be fewer and shorter than the shape's."""
        dims, count = self._dims(shape), len(rows)
        staged = self._pinned[0].bytes[: self._bytes(shape)].view(self._bound.dtype).reshape(dims)
        if rows.shape[1:] != dims[1:]:
            assert self._bound.length is not None
            staged[:count] = self._bound.length.pad_id
            staged[:count, : rows.shape[1]] = rows
        else:
            staged[:count] = rows
        # The rows after them hold rows of earlier runs, or zeros. Those are valid inputs, whose embeddings are dropped.
        cuda, size = self._cuda, count * self._bound.dim * 4
        cuda.copy(self._buffers[0], self._pinned[0].address, self._bytes(shape), self._stream)
        self._replay(shape)
        cuda.copy(self._pinned[1].address, self._buffers[1], size, self._stream)
        cuda.wait_for_stream(self._stream)
        return self._pinned[1].bytes[:size].view(np.float32).reshape(count, self._bound.dim).copy()

    def embed_on_device(self, shape: GraphShape, rows: int, source: int, target: int) -> None:
        """Embed rows that lie on the device and have the shape's length, in the order of the stream.

        Args:
            shape: a captured shape with at least as many rows.
            rows: number of rows.
            source: address of the rows.
            target: address for their embeddings.
        """
        self._cuda.copy(self._buffers[0], source, self._bytes(shape) // shape.rows * rows, self._stream)
        self._replay(shape)
        self._cuda.copy(target, self._buffers[1], rows * self._bound.dim * 4, self._stream)

    def close(self) -> None:
        """Free the buffers; the session frees the graphs."""
        self._cuda.wait_for_stream(self._stream)
        self._bindings.clear()
        while self._buffers:
            self._cuda.free(self._buffers.pop())
        while self._pinned:
            self._pinned.pop().close()

    def _allocate(self) -> None:
        most = max(self._bytes(shape) for shape in self.shapes), max(s.rows for s in self.shapes) * self._bound.dim * 4
        for size in most:
            self._pinned.append(self._cuda.allocate_pinned(size))
            self._pinned[-1].bytes[:] = 0
            self._buffers.append(self._cuda.allocate(size))
        self._cuda.clear(self._buffers[0], most[0], self._stream)  # zeros are valid pixels and valid ids

    def _capture(self, shape: GraphShape) -> None:
        entries = ((_GRAPH_ID, str(len(self._bindings) + 1)), _NO_WAIT)
        binding = self._bound.bind(self._dims(shape), self._buffers[0], self._buffers[1])
        self._bindings[shape] = binding, self._bound.options(*entries)
        try:
            for _ in range(_CAPTURE_RUNS):
                self._replay(shape)
            self._cuda.wait_for_stream(self._stream)
        except EngineError as error:
            raise EngineError(
                f"no CUDA graph can be captured for a batch of {shape.rows} ({error}); load the bundle without cuda_graphs"
            ) from error

    def _replay(self, shape: GraphShape) -> None:
        binding, options = self._bindings[shape]
        self._bound.run_bound(binding, self._dims(shape), options)

    def _dims(self, shape: GraphShape) -> tuple[int, ...]:
        return (shape.rows, *(size if size is not None else shape.tokens or 1 for size in self._bound.row))

    def _bytes(self, shape: GraphShape) -> int:
        return math.prod(self._dims(shape)) * self._bound.dtype.itemsize
