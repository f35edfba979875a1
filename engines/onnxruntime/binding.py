"""Runs of an ONNX Runtime session on data where it lies, by I/O binding, within the limit of the session's memory arena.

The arena grows by the memory that a run needs, up to its limit, and keeps the memory for the next run. It is not shrunk after every
run (``memory.enable_memory_arena_shrinkage``), because then every call would free and allocate every intermediate result, and each
of these operations waits for the device. But an arena that is never shrunk can fill up with pieces that are too small for a new
shape, and then refuses this shape for good. So the arena is shrunk when it is full for a run, and the run is repeated, alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.manifest import Tower
from engines.onnxruntime.exclusive_runs import Gate

Room = Callable[[], AbstractContextManager[None]]

# Words in the errors of ONNX Runtime's arena and of the CUDA provider where memory is short.
_FULL = re.compile(r"is smaller than requested bytes|[Ff]ailed to allocate memory|CUDA failure 2\b|out of memory")
_LOG_FATAL = 4
MEMORY_REMEDY = "raise cuda_memory_limit, free device memory, or load one tower only"


class ArenaFullError(EngineError):
    """A run needs more memory than the arena may take, or than the device has left."""


@dataclass(frozen=True)
class Place:
    """Memory of one device.

    Attributes:
        kind: ONNX Runtime's name of the kind of device, ``cuda`` or ``cpu``.
        number: the device's number.
    """

    kind: str
    number: int = 0

    @property
    def arena(self) -> str:
        """The arena's name in the shrinkage option."""
        return f"{'gpu' if self.kind == 'cuda' else self.kind}:{self.number}"


class BoundSession:
    """A session of one tower; many threads may call it.

    Args:
        ort: the library's module.
        session: an `onnxruntime.InferenceSession`.
        tower: the tower's signature.
        place: memory in which the session's inputs and outputs lie in `run_bound`.
        description: library, version and provider, for messages.
        common: entries of every run's options, name and value.
    """

    def __init__(
        self,
        ort: Any,
        session: Any,
        tower: Tower,
        place: Place,
        description: str,
        common: Sequence[tuple[str, str]] = (),
    ) -> None:
        self._ort, self._session, self._place, self._common = ort, session, place, tuple(common)
        self._gate = Gate()
        self._input, self._output = tower.input.name, tower.output.name
        self.description, self.on_gpu = description, place.kind == "cuda"
        self.dtype = np.dtype(tower.input.dtype)
        # Sizes of a row: None where a size is dynamic, and only the number of tokens is.
        self.row = tuple(size if isinstance(size, int) else None for size in tower.input.shape[1:])
        self.length = tower.length
        dim = tower.output.shape[1]
        assert isinstance(dim, int)
        self.dim = dim
        self._plain = self.options()

    def options(self, *entries: tuple[str, str]) -> Any:
        """Options of a run: the common entries and `entries`; the latter win where names are equal."""
        options = self._ort.RunOptions()
        options.log_severity_level = _LOG_FATAL  # errors need no log, because they are exceptions
        for name, value in {**dict(self._common), **dict(entries)}.items():
            options.add_run_config_entry(name, value)
        return options

    def run(self, inputs: npt.NDArray[Any], options: Any = None) -> npt.NDArray[np.float32]:
        """Embed rows on the host; see `engines.runtimes.protocol.TowerRuntime`.

        Raises:
            ArenaFullError: there is no memory for so many rows.
            EngineError: the run failed.
        """
        session = self._open_session()
        try:
            with self._gate.together():
                outputs = session.run([self._output], {self._input: inputs}, options or self._plain)
        except Exception as error:
            raise self._failure(error, inputs.dtype, inputs.shape) from error
        result: npt.NDArray[np.float32] = outputs[0]
        return result

    def bind(self, shape: tuple[int, ...], source: int, target: int) -> Any:
        """A binding of memory at the session's place, for any number of calls of `run_bound`.

        Args:
            shape: shape of the input, rows first.
            source: address of the input, contiguous and of the tower's dtype.
            target: address for shape[0] float32 embeddings.
        """
        place, binding = self._place, self._open_session().io_binding()
        binding.bind_input(self._input, place.kind, place.number, self.dtype.type, list(shape), source)
        binding.bind_output(self._output, place.kind, place.number, np.float32, [shape[0], self.dim], target)
        return binding

    def run_bound(self, binding: Any, shape: tuple[int, ...], options: Any = None) -> None:
        """Embed the rows of a binding made by `bind`, without a copy.

        Raises:
            ArenaFullError: there is no memory for so many rows.
            EngineError: the run failed.
        """
        session = self._open_session()
        try:
            with self._gate.together():
                session.run_with_iobinding(binding, options or self._plain)
        except Exception as error:
            raise self._failure(error, self.dtype, shape) from error

    def shrink(self) -> None:
        """Free the arena's memory that no run uses; the option acts after a run, so the smallest possible run is made.

        Raises:
            ArenaFullError: there is no memory even for that run.
        """
        sizes = [self.length.min if size is None and self.length is not None else size for size in self.row]
        entry = ("memory.enable_memory_arena_shrinkage", self._place.arena)
        self.run(np.zeros((1, *(size or 1 for size in sizes)), dtype=self.dtype), self.options(entry))

    @contextmanager
    def room(self) -> Iterator[None]:
        """Hold off other threads' runs, with no idle memory in the arena, for the time of the block.

        Raises:
            ArenaFullError: see `shrink`.
        """
        with self._gate.alone():
            self.shrink()
            yield

    def run_in_parts(self, inputs: npt.NDArray[Any], room: Room | None) -> npt.NDArray[np.float32]:
        """Embed rows on the host like `run`, but in parts where memory is short: see the function `run_in_parts`."""
        found: list[npt.NDArray[np.float32]] = []

        def part(start: int, count: int) -> None:
            found.append(self.run(inputs[start : start + count]))

        run_in_parts(len(inputs), max(len(inputs), 1), part, room)
        return found[0] if len(found) == 1 else np.concatenate([np.empty((0, self.dim), np.float32), *found])

    def close(self) -> None:
        """Free the session; a run that has begun keeps it to its end."""
        self._session = None

    def _open_session(self) -> Any:
        session = self._session  # read once, because another thread may close the tower
        if session is None:
            raise EngineError("the engine was closed: load the bundle again")
        return session

    def _failure(self, error: Exception, dtype: np.dtype[Any], shape: Sequence[int]) -> EngineError:
        if is_about_memory(error):
            return ArenaFullError(f"{self.description} has no memory for {dtype} {tuple(shape)}: {first_line(error)}")
        return EngineError(f"{self.description} failed on {dtype} {tuple(shape)}: {first_line(error)}")


def run_in_parts(rows: int, most: int, run: Callable[[int, int], None], room: Room | None) -> None:
    """Run any number of rows in as few parts as memory allows.

    Where the arena is full, because of idle memory or of other threads' runs, `room` makes room and the part is repeated; where
    that does not help, the part is halved.

    Args:
        rows: number of rows.
        most: largest number of rows in one run.
        run: function that embeds the rows from its first argument on, its second argument many; raises `ArenaFullError`.
        room: function that makes room, such as `BoundSession.room`; None where idle memory must not be freed.

    Raises:
        EngineError: there is no room for one row, or a run failed in another way.
    """
    todo = [(start, min(most, rows - start)) for start in range(0, rows, most)][::-1]
    while todo:
        start, count = todo.pop()
        try:
            _run_with_room(start, count, run, room)
        except ArenaFullError as error:
            if count == 1:
                raise EngineError(f"{error}; {MEMORY_REMEDY}") from error
            half = count // 2
            todo += [(start + half, count - half), (start, half)]


def _run_with_room(start: int, count: int, run: Callable[[int, int], None], room: Room | None) -> None:
    try:
        run(start, count)
    except ArenaFullError:
        if room is None:
            raise
        with room():
            run(start, count)


def is_about_memory(error: Exception) -> bool:
    """Whether an error of the library means that memory is short, the arena's or the device's."""
    return _FULL.search(str(error)) is not None


def first_line(error: Exception) -> str:
    """The message of a library's error in one line."""
    return " ".join((str(error).strip() or type(error).__name__).split())[:300]
