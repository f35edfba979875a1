"""One contender in a process of its own; `benchmarks.harness.process` starts it and sends the requests.

A process each, so that one contender's crash, threads, memory and libraries are not another's. Between its turns it waits on a
socket and takes no time from the others.
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks.contenders import Contender, Opened
    from benchmarks.workloads.inputs import Case
    from benchmarks.workloads.subject import Subject

_STABLE = 0.1  # warm-up ends early when the last calls' times are this close together
_LAST_CALLS = 3
_LEAST_CALLS = 3
_LONG_CALL = 0.25  # seconds; after the first call, one of these is warm-up enough
_MOST_CALLS = 500  # in a round
_QUIET_STEP, _QUIET_SHARE, _QUIET_WITHIN = 0.004, 0.25, 0.5  # seconds; of a core; seconds


@dataclass(frozen=True)
class OpenedInfo:
    """A contender's description of itself, and the cost of starting it.

    Attributes:
        versions, weights, note, threads: see `benchmarks.contenders.Opened`.
        load_seconds: time to load the tower, imports included, and for the process's first tower the check that it can run.
    """

    versions: str
    weights: str
    note: str
    threads: int
    load_seconds: float


@dataclass(frozen=True)
class Prepared:
    """A case that is warm.

    Attributes:
        first_call_seconds: time of the first call of this case.
        call_seconds: median time of the last warm-up calls.
    """

    first_call_seconds: float
    call_seconds: float


@dataclass(frozen=True)
class Measured:
    """One round.

    Attributes:
        seconds: time of each timed call; on a GPU with calls that return early, one mean for all calls of the round.
        wall_seconds: time of the whole round.
        calls: number of calls.
        figures: the contender's own figures.
    """

    seconds: tuple[float, ...]
    wall_seconds: float
    calls: int
    figures: dict[str, float]


@dataclass(frozen=True)
class Memory:
    """Peak resident memory of the process and its part of the GPU's memory, in bytes."""

    host: int
    device: int


class Worker:
    """The contender's side: each public method serves one request."""

    def __init__(self) -> None:
        self._opened: Opened | None = None
        self._call: Callable[[int], object] = _nothing
        self._turn = 0
        self._device_free = 0
        self._check_seconds = 0.0  # its imports are those of the tower that is loaded next

    def why_not(self, subject: Subject, contender: Contender, device: str) -> str | None:
        """See `benchmarks.contenders`."""
        start = time.perf_counter()
        reason: str | None = contender.module.why_not(subject, contender, device)
        self._check_seconds = time.perf_counter() - start
        return reason

    def setup(self, subject: Subject, contender: Contender, tower: str, folder: str) -> None:
        """Make the files that the contender needs; nothing if it needs none."""
        make = getattr(contender.module, "setup", None)
        if make is not None:
            make(subject, contender, tower, Path(folder))

    def open(self, subject: Subject, contender: Contender, tower: str, device: str, folder: str) -> OpenedInfo:
        """Load the tower."""
        self._opened, self._call = None, _nothing  # the tower before goes
        start = time.perf_counter()
        self._device_free = _device_free() if device == "cuda" else 0
        opened = self._opened = contender.module.open_tower(subject, contender, tower, device, Path(folder))
        seconds, self._check_seconds = time.perf_counter() - start + self._check_seconds, 0.0
        return OpenedInfo(opened.versions, opened.weights, opened.note, opened.threads, seconds)

    def prepare(self, case: Case, warm_up_seconds: float) -> Prepared:
        """Load a case's inputs and run it until its times are stable, or for so long after the first call, which may compile."""
        assert self._opened is not None
        self._call = self._opened.prepare(case)
        start = time.perf_counter()
        self._call(0)
        self._synchronize()
        first = time.perf_counter() - start
        if case.kind == "files" and first > _LONG_CALL:
            return Prepared(first, first)  # a call is many batches
        times: list[float] = []
        end = time.perf_counter() + warm_up_seconds
        while not (times and times[-1] > _LONG_CALL) and (
            len(times) < _LEAST_CALLS or (time.perf_counter() < end and not _stable(times))
        ):
            start = time.perf_counter()
            self._call(len(times) + 1)
            self._synchronize()
            times.append(time.perf_counter() - start)
        return Prepared(first, statistics.median(times[-_LAST_CALLS:]))

    def measure(self, calls: int, each: bool) -> Measured:
        """Time calls.

        Args:
            calls: number of calls.
            each: time every call for itself, from the host's call to the result (latency); else on a GPU all of them together by
                device events, as they are queued one behind the other (throughput).
        """
        assert self._opened is not None
        turn = self._turn
        self._turn += calls
        if self._opened.on_stream and not each:
            return self._measure_on_stream(calls, turn)
        call, figures = self._call, self._opened.figures
        seconds = []
        synchronize = self._synchronize
        begin = time.perf_counter()
        for i in range(turn, turn + calls):
            start = time.perf_counter()
            call(i)
            synchronize()
            seconds.append(time.perf_counter() - start)
        return Measured(tuple(seconds), time.perf_counter() - begin, calls, figures())

    def rest(self) -> None:
        """Wait until all threads of this process sleep: ONNX Runtime's look for work for 50 ms, on a core that others need."""
        end = time.perf_counter() + _QUIET_WITHIN
        while time.perf_counter() < end:
            used = time.process_time()
            time.sleep(_QUIET_STEP)
            if time.process_time() - used < _QUIET_SHARE * _QUIET_STEP:
                return

    def memory(self) -> Memory:
        """The memory that the process has taken so far."""
        from exporter.memory import peak_memory

        device = max(0, self._device_free - _device_free()) if self._device_free else 0
        return Memory(peak_memory(), device)

    def _measure_on_stream(self, calls: int, turn: int) -> Measured:
        import torch

        assert self._opened is not None
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        begin = time.perf_counter()
        first.record()
        for i in range(turn, turn + calls):
            self._call(i)
        last.record()
        torch.cuda.synchronize()
        mean = first.elapsed_time(last) / 1e3 / calls
        return Measured((mean,), time.perf_counter() - begin, calls, self._opened.figures())

    @property
    def _synchronize(self) -> Callable[[], object]:
        if self._opened is None or not self._opened.on_stream:
            return _do_nothing
        import torch

        return torch.cuda.synchronize


def calls_in_a_round(call_seconds: float, round_seconds: float) -> int:
    """Calls that fill a round, at least one."""
    return max(1, min(_MOST_CALLS, round(round_seconds / max(call_seconds, 1e-7))))


def _nothing(i: int) -> object:
    return None


def _do_nothing() -> None:
    return None


def _stable(times: list[float]) -> bool:
    last = times[-_LAST_CALLS:]
    return max(last) - min(last) <= _STABLE * min(last)


def _device_free() -> int:
    """Free bytes of the GPU's memory; 0 without a PyTorch that works."""
    try:
        import torch
    except (Exception, SystemExit):  # noqa: BLE001 - whatever a broken library raises
        return 0
    return int(torch.cuda.mem_get_info()[0])


def serve(connection: Connection) -> None:
    """Answer requests ``(method, arguments)`` by ``(True, result)`` or ``(False, message)`` until the other side hangs up."""
    worker = Worker()
    while True:
        try:
            method, arguments = connection.recv()
        except EOFError:
            return
        answer: tuple[bool, Any]
        try:
            answer = True, getattr(worker, method)(*arguments)
        except Exception as error:  # noqa: BLE001  (a contender may raise anything; the others go on)
            answer = False, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        connection.send(answer)


def main() -> None:
    """Serve on the socket whose number is the first argument; what contenders print goes to stderr.

    The second argument is the number of a pipe that nobody writes to: when it ends, the run was killed, and so is this process.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the run's to handle
    connection = Connection(int(sys.argv[1]))
    threading.Thread(target=_end_with_the_run, args=(int(sys.argv[2]),), daemon=True).start()
    os.dup2(2, 1)
    serve(connection)
    os._exit(0)  # some libraries crash in their exit handlers; everything was said


def _end_with_the_run(leash: int) -> None:
    os.read(leash, 1)
    os.killpg(0, signal.SIGKILL)  # `benchmarks.harness.bounded.start_child` made this process the first of its group
