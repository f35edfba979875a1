"""Each op of `kernels` against PyTorch's own, compiled PyTorch and the vendor's kernels: ``python -m benchmarks kernel-ops``.

Implementations of a case take turns, timed by device events on a GPU; a speedup is over plain PyTorch in the same round. With
``--choices`` the table that `kernels.swap` reads is written, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import rows as rowfiles
from benchmarks.estimates import Estimate, estimate, speedup
from benchmarks.kernel_cases import TOWERS, KernelCase, cases_of
from benchmarks.machine import Machine, clock_mhz, stamp, this_machine, versions
from benchmarks.results_file import commit
from benchmarks.rows import FIGURES, Row
from benchmarks.work import ceiling_gbytes, ceiling_tflops

RESULTS = Path(__file__).parent / "results"
_BATCHES = (1, 32, 256)
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
_ROUND_SECONDS = 0.01
_MOST_CALLS = 200


def measure_case(case: KernelCase, device: str, rounds: int) -> tuple[dict[str, list[float]], dict[str, str]]:
    """Seconds of a call in every round for each implementation that runs, and the reasons of those that do not."""
    calls, problems = case.calls(), {}
    counts: dict[str, int] = {}
    for name, call in calls.items():
        try:
            for _ in range(3):
                call()
            once = _seconds(call, 3, device)
        except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
            problems[name] = " ".join(str(error).split())[:200]
            continue
        counts[name] = max(1, min(_MOST_CALLS, round(_ROUND_SECONDS / max(once, 1e-7))))
    seconds: dict[str, list[float]] = {name: [] for name in counts}
    names = list(counts)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds[name].append(_seconds(calls[name], counts[name], device))
    return seconds, problems


def _seconds(call: Callable[[], object], count: int, device: str) -> float:
    """Mean seconds of `count` calls."""
    if device == "cpu":
        start = time.perf_counter()
        for _ in range(count):
            call()
        return (time.perf_counter() - start) / count
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    torch.cuda.synchronize()
    first.record()
    for _ in range(count):
        call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1e3 / count


def case_rows(
    case: KernelCase,
    tower: str,
    precision: str,
    batch: int,
    seconds: dict[str, list[float]],
    problems: dict[str, str],
    results: Path,
) -> list[Row]:
    """Rows of one case: time, speedup over plain PyTorch, and the rate with its share of the machine's ceiling."""
    common: dict[str, Any] = {
        "what": "kernel",
        "model": case.op,
        "precision": precision,
        "batch": batch,
        "shape": _shape(case, tower),
        "versions": versions(("torch", "triton")),
    }
    found = []
    for name, taken in seconds.items():
        figures: dict[str, Estimate] = {"time": estimate([1e6 * s for s in taken])}
        if name != "native" and "native" in seconds:
            figures["speedup"] = speedup(taken, seconds["native"])
        if case.flops:
            rate = figures["tflops"] = estimate([case.flops / s / 1e12 for s in taken])
            ceiling = ceiling_tflops(results, precision)
        else:
            rate = figures["gbytes_per_second"] = estimate([case.bytes / s / 1e9 for s in taken])
            ceiling = ceiling_gbytes(results)
        if ceiling:
            figures["fraction_of_ceiling"] = rate.map(1 / ceiling)
        for figure, value in figures.items():
            found.append(
                Row(
                    figure=figure,
                    engine=name,
                    value=value.value,
                    low=value.low,
                    high=value.high,
                    unit=FIGURES[figure].unit,
                    repeats=value.repeats,
                    status="noisy" if value.noisy else "ok",
                    **common,
                )
            )
    for name, why in problems.items():
        found.append(Row(figure="time", engine=name, status="missing", note=why, unit="us", **common))
    return found


def _shape(case: KernelCase, tower: str) -> str:
    return f"{case.label} ({tower})"


def run(
    towers: Sequence[str],
    batches: Sequence[int],
    precision: str,
    machine: Machine,
    results: Path,
    rounds: int,
    choices: bool,
    deadline: float | None = None,
    is_done: Callable[[tuple[str, ...]], bool] = lambda case: False,
) -> tuple[list[Row], bool]:
    """Measure the ops of towers, keep the rows of every case at once, and print a line for each.

    Args:
        towers: names of `TOWERS`, or parts of them.
        batches: sizes.
        precision: of the operands.
        machine: that computes.
        results: folder of its rows.
        rounds: of each case.
        choices: also write `kernels.choices`' table.
        deadline: of ``time.monotonic()``, after which no case is begun.
        is_done: whether a case (`Row.case`) need not be measured.

    Returns:
        The rows, and whether the time was enough for all of them.
    """
    device, dtype = machine.device, _DTYPES[precision]
    measured: list[Row] = []
    for tower in (t for t in TOWERS if any(part in t.name for part in towers) or not towers):
        for batch in batches:
            for case in cases_of(tower, batch, dtype, device):
                shape = _shape(case, tower.name)
                if is_done(("kernel", case.op, "", "native", precision, str(batch), shape)):
                    continue
                if deadline is not None and time.monotonic() > deadline:
                    print("  no time left")
                    return measured, False
                torch._dynamo.reset()
                seconds, problems = measure_case(case, device, rounds)
                found = stamp(
                    case_rows(case, tower.name, precision, batch, seconds, problems, results),
                    machine,
                    clock_mhz=clock_mhz(device),
                )
                rowfiles.merge(results, found, whole_cases=True)
                measured += found
                _print(case, tower.name, found)
                if choices and {"triton", "native"} <= set(seconds):
                    _keep_choice(case, dtype, seconds, machine)
    return measured, True


def _keep_choice(case: KernelCase, dtype: torch.dtype, seconds: dict[str, list[float]], machine: Machine) -> None:
    from kernels import choices

    major, minor = torch.cuda.get_device_capability()
    row = choices.Row(
        arch=f"sm{major}{minor}",
        op=case.op,
        dtype=str(dtype).removeprefix("torch."),
        shape=choices.shape_text(case.shape),
        triton_ms=1e3 * estimate(seconds["triton"]).value,
        native_ms=1e3 * estimate(seconds["native"]).value,
        machine=machine.name,
        commit=commit(),
    )
    choices.merge([row])


def _print(case: KernelCase, tower: str, found: Sequence[Row]) -> None:
    times = {row.engine: row.value for row in found if row.figure == "time" and row.value is not None}
    text = "  ".join(f"{name} {value:,.1f} us" for name, value in times.items())
    print(f"  {case.op:<18}{case.label:<34}{tower:<20}{text}", flush=True)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure ops."""
    from benchmarks.throughput import pick_device

    parser = argparse.ArgumentParser(prog="python -m benchmarks kernel-ops", description=__doc__.splitlines()[0])
    parser.add_argument("--towers", default="", help="names or parts of names, comma-separated; default all")
    parser.add_argument("--batches", default=",".join(map(str, _BATCHES)), help="default 1,32,256")
    parser.add_argument("--precision", choices=sorted(_DTYPES), default="fp16")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--choices", action="store_true", help="write the table of kernels.choices (on a GPU)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    if args.choices and device == "cpu":
        print("error: choices are between kernels on a GPU, and this is a CPU", file=sys.stderr)
        return 1
    try:
        machine = this_machine(device)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    towers = [name for name in args.towers.split(",") if name]
    batches = [int(batch) for batch in args.batches.split(",")]
    results = args.results or RESULTS / machine.slug
    found, _ = run(towers, batches, args.precision, machine, results, args.rounds, args.choices)
    if not found:
        print(f"error: no tower is called {args.towers}: {', '.join(t.name for t in TOWERS)}", file=sys.stderr)
        return 1
    return 0
