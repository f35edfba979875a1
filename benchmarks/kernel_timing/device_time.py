"""The time of a call on its device: on a GPU the time of its kernels, without Python's, because a package has no Python.

A call is recorded as a CUDA graph, several times in a row, and replays of the graph are timed by events. A call that cannot be
recorded is timed by the profiler, as the sum of its kernels. On a CPU the host's clock is read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from benchmarks.harness.timing import rotated

ROUND_SECONDS = 0.01
MOST_CALLS = 50
_WARM = 3


_REFUSALS = (ValueError, ImportError, NotImplementedError)


@dataclass(frozen=True)
class Problem:
    """Why a call has no time.

    Attributes:
        why: the reason, for a row's note.
        refused: it cannot run here at all, because a device, a library or a dtype is not its own; else it failed.
    """

    why: str
    refused: bool = False


@dataclass(frozen=True)
class Timed:
    """A call that is ready to be timed.

    Attributes:
        round: a function that makes one measurement: mean seconds of a call.
        how: the method: ``graph``, ``profiler`` or ``host``.
    """

    round: Callable[[], float]
    how: str


def prepare(call: Callable[[], object], device: str, round_seconds: float = ROUND_SECONDS) -> Timed:
    """Warm a call up, which compiles and tunes what it launches, and record it.

    Args:
        call: a function that works on the current stream, and always on the same tensors.
        device: ``cpu`` or ``cuda``.
        round_seconds: approximate time of one measurement, of at most `MOST_CALLS` calls.

    Raises:
        RuntimeError: or whatever else the call raises.
    """
    for _ in range(_WARM):
        call()
    once = _host_seconds(call, 1, device)
    count = max(1, min(MOST_CALLS, round(round_seconds / max(once, 1e-7))))
    if device == "cpu":
        return Timed(lambda: _host_seconds(call, count, device), "host")
    stream = torch.cuda.current_stream()
    try:
        graph = _recorded(call, count)
    except RuntimeError:
        # A capture that was broken off leaves its own stream the current one, and what it allocated in the cache.
        torch.cuda.set_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return Timed(lambda: _profiled(call, count), "profiler")
    return Timed(lambda: _replayed(graph) / count, "graph")


def measure(
    calls: Mapping[str, Callable[[], object]], device: str, rounds: int, round_seconds: float = ROUND_SECONDS
) -> tuple[dict[str, list[float]], dict[str, str], dict[str, Problem]]:
    """Time calls in turns, so that what disturbs the machine disturbs all alike.

    Args:
        calls: names, each with its call.
        device: ``cpu`` or ``cuda``.
        rounds: measurements of each call; the order rotates from round to round.
        round_seconds: see `prepare`.

    Returns:
        Seconds of a call in every round, and how they were measured, for each that runs; the problems of those that do not.
    """
    ready: dict[str, Timed] = {}
    problems: dict[str, Problem] = {}
    for name, call in calls.items():
        try:
            ready[name] = prepare(call, device, round_seconds)
        except Exception as error:  # noqa: BLE001  (Triton's errors have no other class in common)
            problems[name] = problem(error)
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for turn in range(rounds):
        for name in rotated(list(ready), turn):
            seconds[name].append(ready[name].round())
    return seconds, {name: timed.how for name, timed in ready.items()}, problems


def problem(error: Exception) -> Problem:
    """An error in one line."""
    return Problem((" ".join(str(error).split()) or type(error).__name__)[:200], isinstance(error, _REFUSALS))


def _host_seconds(call: Callable[[], object], count: int, device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        call()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count


def _recorded(call: Callable[[], object], count: int) -> torch.cuda.CUDAGraph:
    # Libraries make their workspaces on the first call in a stream, which must not be while it is recorded.
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(_WARM):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side, capture_error_mode="thread_local"):
        for _ in range(count):
            call()
    graph.replay()
    torch.cuda.synchronize()
    return graph


def _replayed(graph: torch.cuda.CUDAGraph) -> float:
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    first.record()
    graph.replay()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3


def _profiled(call: Callable[[], object], count: int) -> float:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        for _ in range(count):
            call()
        torch.cuda.synchronize()
    return sum(event.self_device_time_total for event in profile.key_averages()) / 1e6 / count
