"""Seconds of calls: several ways to do the same thing in turns, so that noise disturbs all alike; or one call on its device."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

_T = TypeVar("_T")

SECONDS = 1.0  # for which `timed` makes calls
_LEAST, _MOST = 5, 200  # calls that `timed` makes


def rotated(items: Sequence[_T], turn: int) -> list[_T]:
    """The items in a turn's order: each turn begins one item later, so that none always follows the same other one."""
    shift = turn % max(1, len(items))
    return [*items[shift:], *items[:shift]]


def alternate(ways: Mapping[str, Callable[[], object]], rounds: int = 7, warmup: int = 1) -> dict[str, float]:
    """Median seconds of each way.

    Args:
        ways: names, each with a function without arguments; the order rotates from round to round.
        rounds: measured rounds.
        warmup: rounds before them that do not count.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    for turn in range(warmup + rounds):
        for name in rotated(names, turn):
            start = time.perf_counter()
            ways[name]()
            if turn >= warmup:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def timed(run: Callable[[], object], device: str, seconds: float = SECONDS) -> list[float]:
    """Seconds of each of some calls, warm: by device events on a GPU.

    Args:
        run: the call.
        device: ``cpu`` or ``cuda``.
        seconds: time for which calls are made.
    """
    import torch

    for _ in range(3):
        run()
    taken: list[float] = []
    if device == "cuda":
        torch.cuda.synchronize()
    end = time.perf_counter() + seconds
    while len(taken) < _LEAST or (time.perf_counter() < end and len(taken) < _MOST):
        if device == "cuda":
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
            first.record()
            run()
            last.record()
            torch.cuda.synchronize()
            taken.append(first.elapsed_time(last) / 1e3)
        else:
            start = time.perf_counter()
            run()
            taken.append(time.perf_counter() - start)
    return taken
