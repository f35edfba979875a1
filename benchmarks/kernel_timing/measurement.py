"""One op by all of its implementations: compiled side by side, checked against float64, timed in turns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from benchmarks.kernel_timing.calls import Work
from benchmarks.kernel_timing.cases import KernelCase
from benchmarks.kernel_timing.device_time import ROUND_SECONDS, Problem, measure, problem
from benchmarks.records.machine import usable_cores

# How much larger than eager's an implementation's error against float64 may be, and what rounding adds to that.
_ERRORS, _SLACK = 2.0, 1e-6


@dataclass(frozen=True)
class Measured:
    """One case.

    Attributes:
        seconds: seconds of a call in every round, for each implementation that runs and is right.
        how: the method of each measurement; see `benchmarks.kernel_timing.device_time`.
        errors: relative errors against float64.
        problems: the reasons why the other implementations have no time.
        choices: the implementations that the table may hold.
    """

    seconds: Mapping[str, list[float]]
    how: Mapping[str, str]
    errors: Mapping[str, float]
    problems: Mapping[str, Problem]
    choices: Sequence[str]


def measure_case(case: KernelCase, device: str, rounds: int, round_seconds: float = ROUND_SECONDS) -> Measured:
    """Make a case's inputs, compile its kernels side by side, check every implementation and time those that are right."""
    work = case.make()
    if device == "cuda":
        from kernels.ahead import compile_ahead

        compile_ahead([work.calls[name] for name in work.kernels], usable_cores())
    errors, problems = _checked(work)
    calls = {name: call for name, call in work.calls.items() if name not in problems}
    seconds, how, failed = measure(calls, device, rounds, round_seconds)
    return Measured(seconds, how, errors, problems | failed, work.choices)


def _checked(work: Work) -> tuple[dict[str, float], dict[str, Problem]]:
    """The relative error of every implementation that is checked, and the problems of those that fail or are wrong."""
    errors: dict[str, float] = {}
    problems: dict[str, Problem] = {}
    for name, call in work.calls.items():
        try:
            exact = work.exact(name)
            if exact is not None:
                got = work.head(call()).double()
                errors[name] = float((got - exact).norm() / exact.norm().clamp_min(1e-30))
        except Exception as error:  # noqa: BLE001  (Triton's errors have no other class in common)
            problems[name] = problem(error)
    allowed = _ERRORS * errors.get("eager", float("inf")) + _SLACK
    for name, size in errors.items():
        if not size <= allowed:  # a NaN is wrong, too
            why = f"wrong: its error against float64 is {size:.2g}, more than the {allowed:.2g} allowed"
            problems[name] = Problem(why)
    return errors, problems
