"""Each op of `kernels` by every implementation that may stand in a package: ``python -m benchmarks kernel-ops``.

Implementations of a case take turns on the device, without Python (`benchmarks.kernel_timing.device_time`). A speedup is over the
code that PyTorch's compiler makes in its place, in the same round; a rate stands beside the ceiling of the same run. With
``--choices`` the table that `kernels.swap` reads is written, too.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.ceilings import measure_ceilings
from benchmarks.kernel_timing.cases import OPS, TOWERS, KernelCase, cases_of, towers_named
from benchmarks.kernel_timing.choices import is_chosen, keep_choice
from benchmarks.kernel_timing.device_time import ROUND_SECONDS, problem
from benchmarks.kernel_timing.measurement import Measured, measure_case
from benchmarks.records import rows as rowfiles
from benchmarks.records.csv_file import commit
from benchmarks.records.estimates import Estimate, estimate, speedup
from benchmarks.records.figures import FIGURES
from benchmarks.records.flops_and_ceilings import ceiling_gbytes, ceiling_tflops
from benchmarks.records.machine import Machine, clock_mhz, stamp, this_machine, versions
from benchmarks.records.precisions import UNQUANTIZED, torch_dtype
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from engines.precisions import PRECISIONS

_BATCHES = (1, 32, 256)
_CEILING_SECONDS = 0.3  # of each, where the run's ceilings have to be measured first
# The usual ways to time need no words.
_NOTES = {"profiler": "no CUDA graph could be recorded: sum of its kernels, by the profiler"}


def case_rows(
    case: KernelCase,
    tower: str,
    precision: str,
    batch: int,
    measurement: Measured,
    ceilings: Mapping[str, float],
    cache: int = 0,
) -> list[Row]:
    """Rows of one case: time, error, speedup over the code of a native package, and the rate with its share of the ceiling.

    Args:
        case: the measured case.
        tower: the tower's name.
        precision: precision of the operands.
        batch: the tower's batch size.
        measurement: result of `benchmarks.kernel_timing.measurement.measure_case`.
        ceilings: TFLOP/s by precision, and ``copy`` in GB/s; a rate without a ceiling has no fraction.
        cache: bytes of the device's last cache.
    """
    common: dict[str, Any] = {
        "what": "kernel",
        "model": case.op,
        "batch": batch,
        "shape": _shape(case, tower),
        "versions": versions(("torch", "triton")),
    }
    rows = []
    for name, taken in measurement.seconds.items():
        operand_precision = "fp8" if name.startswith("fp8") else precision
        figures: dict[str, Estimate] = {"time": estimate([1e6 * s for s in taken])}
        if name != "native" and "native" in measurement.seconds:
            figures["speedup"] = speedup(taken, measurement.seconds["native"])
        if case.flops:
            rate = figures["tflops"] = estimate([case.flops / s / 1e12 for s in taken])
            ceiling = ceilings.get(operand_precision)
        else:
            rate = figures["gbytes_per_second"] = estimate([case.bytes / s / 1e9 for s in taken])
            ceiling = ceilings.get("copy")
        if ceiling and (
            case.flops or case.bytes > 2 * cache
        ):  # what stays in the cache is not held to the memory's rate
            figures["fraction_of_ceiling"] = rate.map(1 / ceiling)
        if name in measurement.errors:
            error = measurement.errors[name]
            figures["relative_error"] = Estimate(error, error, error, 1)
        for figure, value in figures.items():
            rows.append(
                Row(
                    figure=figure,
                    engine=name,
                    precision=operand_precision,
                    value=value.value,
                    low=value.low,
                    high=value.high,
                    unit=FIGURES[figure].unit,
                    repeats=value.repeats,
                    status="noisy" if value.noisy else "ok",
                    note=_NOTES.get(measurement.how[name], ""),
                    **common,
                )
            )
    for name, bad in measurement.problems.items():
        status: Any = "missing" if bad.refused else "failed"
        rows.append(
            Row(figure="time", engine=name, precision=precision, status=status, note=bad.why, unit="us", **common)
        )
    return rows


def _shape(case: KernelCase, tower: str) -> str:
    return f"{case.label} ({tower})"


def ceilings_of_run(machine: Machine, results: Path, run_commit: str) -> dict[str, float]:
    """TFLOP/s of matrix products by precision and ``copy`` in GB/s: this run's own, measured now if they are not there yet.

    Those that lie in `results` are this run's where a run of the same commit left them within the last hour.
    """
    file = results / "ceiling.csv"
    fresh = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    known = [row for row in rowfiles.read(file) if row.commit == run_commit and row.date >= fresh]
    if not any(row.model == "copy" for row in known):
        measured = stamp(
            measure_ceilings(machine.device, seconds=_CEILING_SECONDS),
            machine,
            clock_mhz=clock_mhz(machine.device),
            commit=run_commit,
        )
        rowfiles.merge(results, measured)
    ceilings = {precision: ceiling_tflops(results, precision) for precision in PRECISIONS}
    return {name: value for name, value in (ceilings | {"copy": ceiling_gbytes(results)}).items() if value}


def run(
    towers: Sequence[str],
    batches: Sequence[int],
    precision: str,
    machine: Machine,
    results: Path,
    rounds: int,
    *,
    ops: Sequence[str] = (),
    choices: bool = False,
    choices_copy: Path | None = None,
    missing: bool = False,
    deadline: float | None = None,
    is_done: Callable[[tuple[str, ...]], bool] = lambda case: False,
    run_commit: str | None = None,
    round_seconds: float = ROUND_SECONDS,
) -> tuple[list[Row], bool]:
    """Measure the ops of towers, keep the rows of every case at once, and print a line for each implementation.

    Args:
        towers: names of `TOWERS`, or parts of them; empty is all.
        batches: batch sizes.
        precision: precision of the operands.
        machine: the machine that computes.
        results: folder of its rows.
        rounds: number of rounds of each case.
        ops: names of `OPS`; empty is all.
        choices: also write `kernels.choices`' table.
        choices_copy: file for a copy of the table after each case, before its rows: a run that is cut off then loses neither.
        missing: leave out cases that have rows in the table.
        deadline: time of ``time.monotonic()`` after which no case is begun; None: no such time.
        is_done: whether a case (`Row.case`) need not be measured.
        run_commit: the commit of the rows; None: the code's.
        round_seconds: approximate time of one measurement.

    Returns:
        The rows, and whether the time was enough for all of them.
    """
    device, dtype = machine.device, torch_dtype(precision)
    named = commit() if run_commit is None else run_commit
    ceilings: dict[str, float] | None = None
    measured: list[Row] = []
    for tower in towers_named(list(towers)):
        for batch in batches:
            for case in cases_of(tower, batch, dtype, device):
                shape = _shape(case, tower.name)
                key = ("kernel", case.op, "", "native", precision, str(batch), shape)
                if (ops and case.op not in ops) or is_done(key) or (missing and is_chosen(case, dtype, device)):
                    continue
                if deadline is not None and time.monotonic() > deadline:
                    print("  no time left")
                    return measured, False
                if ceilings is None:
                    ceilings = ceilings_of_run(machine, results, named)
                rows, measurement = _one(
                    case, tower.name, precision, batch, machine, rounds, round_seconds, ceilings, named
                )
                if choices and "native" in measurement.seconds:
                    keep_choice(case, dtype, measurement, machine, named, choices_copy)
                rowfiles.merge(results, rows, whole_cases=True)
                measured += rows
                _print(case, tower.name, rows)
    return measured, True


def _one(
    case: KernelCase,
    tower: str,
    precision: str,
    batch: int,
    machine: Machine,
    rounds: int,
    round_seconds: float,
    ceilings: Mapping[str, float],
    run_commit: str,
) -> tuple[list[Row], Measured]:
    """One case's rows; a case without room for its inputs is a row that says so."""
    torch._dynamo.reset()
    try:
        measurement = measure_case(case, machine.device, rounds, round_seconds)
    except torch.OutOfMemoryError as error:
        measurement = Measured({}, {}, {}, {"native": problem(error)}, ())
    if machine.device == "cuda":
        torch.cuda.empty_cache()
    rows = case_rows(case, tower, precision, batch, measurement, ceilings, _cache(machine.device))
    return stamp(rows, machine, clock_mhz=clock_mhz(machine.device), commit=run_commit), measurement


def _cache(device: str) -> int:
    return int(torch.cuda.get_device_properties(0).L2_cache_size) if device == "cuda" else 0


def _print(case: KernelCase, tower: str, rows: Sequence[Row]) -> None:
    print(f"  {case.op}, {case.label} ({tower})", flush=True)
    share = {row.engine: row.value for row in rows if row.figure == "fraction_of_ceiling"}
    times = [row for row in rows if row.figure == "time"]
    for row in sorted(times, key=lambda row: (row.value is None, row.value)):
        if row.value is None:
            print(f"    {row.engine:<24}{row.note[:96]}")
            continue
        part = share.get(row.engine)
        print(f"    {row.engine:<24}{row.value:>12,.1f} us" + (f"{part:>8.0%} of the ceiling" if part else ""))
    sys.stdout.flush()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure ops."""
    from benchmarks.throughput import pick_device

    parser = argparse.ArgumentParser(prog="python -m benchmarks kernel-ops", description=__doc__.splitlines()[0])
    parser.add_argument("--towers", default="", help="names or parts of names, comma-separated; default all")
    parser.add_argument("--batches", default=",".join(map(str, _BATCHES)), help="default 1,32,256")
    parser.add_argument("--ops", default="", help=f"comma-separated, of {', '.join(OPS)}; default all")
    parser.add_argument("--precision", choices=sorted(UNQUANTIZED), default="fp16")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--choices", action="store_true", help="write the table of kernels.choices (on a GPU)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    if args.choices and device == "cpu":
        print("error: choices are between kernels on a GPU, and this is a CPU", file=sys.stderr)
        return 1
    ops, towers = _words(args.ops), _words(args.towers)
    unknown = [op for op in ops if op not in OPS]
    if unknown or not towers_named(towers):
        what = f"no op is called {unknown[0]}: {', '.join(OPS)}" if unknown else ""
        print(
            f"error: {what or f'no tower is called {args.towers}: ' + ', '.join(t.name for t in TOWERS)}",
            file=sys.stderr,
        )
        return 1
    try:
        machine = this_machine(device)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    batches = [int(batch) for batch in _words(args.batches)]
    results = args.results or RESULTS / machine.slug
    run(towers, batches, args.precision, machine, results, args.rounds, ops=ops, choices=args.choices)
    return 0


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]
