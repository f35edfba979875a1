"""The parts of a suite, one after the other until its time is over, as `benchmarks.suites.definitions` lists them."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import contenders_of
from benchmarks.harness.passes import Passes
from benchmarks.harness.plan import Plan, UserError
from benchmarks.harness.process import OUT_OF_TIME
from benchmarks.harness.run import Run
from benchmarks.records.machine import this_machine
from benchmarks.records.rows import Row
from benchmarks.suites.definitions import Ceilings, Facts, Kernels, Package, Step, Suite, Sweep, Tests
from benchmarks.suites.exports import NoTimeError, subject_of
from benchmarks.suites.gpu_tests import run_gpu_tests
from benchmarks.suites.package_build import PackageCase
from benchmarks.suites.step import run_step
from benchmarks.throughput import make_cases

_LAST_CASE = 20.0  # seconds before the end, after which nothing is begun
_TESTS_SHARE = 0.4  # of the time that is left, where other parts follow


def run_suite(
    suite: Suite,
    name: str,
    parts: Sequence[str],
    models: Sequence[str],
    results: Path,
    again: bool = False,
    commit: str | None = None,
    apart: bool = False,
) -> bool:
    """Run parts of a suite.

    Args:
        suite: the suite.
        name: the suite's name, with its parts.
        parts: names of the parts to run, in order.
        models: models of the sweeps; empty is all.
        results: folder of the rows.
        again: measure the cases of an interrupted run anew.
        commit: the code's commit, for the rows; None: git's.
        apart: keep nothing but results in that folder; the compilers' caches for a run that goes on are lost.

    Returns:
        Whether everything was measured: False where the time was over before, or a step died.
    """
    end = time.monotonic() + 60 * suite.minutes
    deadline = end - _LAST_CASE
    machine = this_machine(suite.device)
    passes: list[Passes] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        compiled = Path(folder) / "compiled" if apart else None
        run = Run(
            results,
            machine,
            f"suite {name}",
            again=again,
            deadline=deadline,
            end=end,
            commit=commit,
            compiled=compiled,
        )
        for part in parts:
            left = max(0.0, deadline - time.monotonic()) / 60
            print(f"\n== {part} ({machine.name}; {left:.1f} minutes left)", flush=True)
            for number, step in enumerate(suite.parts[part]):
                if isinstance(step, Sweep):
                    if step.model in models or not models:
                        place = Path(folder) / f"{part}-{number}"
                        place.mkdir()
                        passes += _sweep(run, suite, step, place)
                else:
                    _step(run, step, part, last=part == parts[-1])
        for number in range(1, suite.passes):
            left = max(0.0, deadline - time.monotonic()) / 60
            print(f"\n== pass {number + 1} of {suite.passes} ({left:.1f} minutes left)", flush=True)
            for one in passes:
                one.measure(number)
        run.finish()
    return run.complete


def _step(run: Run, step: Step, part: str, last: bool) -> None:
    """Run a step that computes in a process of its own and keeps its rows itself."""
    late, problem = True, ""
    if not run.late:
        if isinstance(step, Tests):
            assert run.end is not None
            left = run.end - time.monotonic()
            run_gpu_tests(run, step.paths, run.end if last else time.monotonic() + _TESTS_SHARE * left)
            return
        late, problem = _run(run, step)
    if late:
        print("  no time left", flush=True)
    if problem:
        print(f"  {part}: {problem}", flush=True)
    if late or problem:
        run.complete = False
        if isinstance(step, Package):
            case = PackageCase(**dataclasses.asdict(step))
            rest = [batch for batch in case.batches if not run.is_done(case.key(batch))]
            run.add(
                [case.failure(batch, "missing" if late else "failed", problem or OUT_OF_TIME) for batch in rest], "cpu"
            )


def _run(run: Run, step: Step) -> tuple[bool, str]:
    arguments = dataclasses.asdict(step)
    if isinstance(step, Ceilings):
        return run_step(run, "benchmarks.ceilings:keep_ceilings", arguments)
    if isinstance(step, Facts):
        return run_step(run, "benchmarks.suites.gpu_facts:keep_facts", arguments)
    if isinstance(step, Package):
        return run_step(run, "benchmarks.suites.packages:keep_package", arguments)
    assert isinstance(step, Kernels)
    compiles = arguments.pop("compiles")
    return run_step(
        run, "benchmarks.suites.step:keep_kernels", arguments, None if compiles else {"TORCHDYNAMO_DISABLE": "1"}
    )


def _sweep(run: Run, suite: Suite, sweep: Sweep, work: Path) -> list[Passes]:
    """Measure the first pass over a model; others may follow, or none where it cannot be measured."""
    if run.late:
        print(f"  {sweep.model}: no time left")
        run.complete = False
        return []
    try:
        subject = subject_of(sweep, work, run.end)
    except (UserError, ImportError, ValueError) as error:
        what = f"not installed: {error.name}" if isinstance(error, ImportError) else str(error)
        print(f"  {sweep.model}: {what}")
        run.complete = run.complete and not isinstance(error, NoTimeError)
        run.add([_missing(sweep, engine, what) for engine in sweep.engines or ("eager",)], suite.device)
        return []
    plan = Plan(
        subject=subject,
        contenders=tuple(contenders_of(subject, suite.device, (*sweep.contenders, *subject.kinds))),
        cases=make_cases(subject, subject.towers, sweep.batches, sweep.texts, sweep.files, None),
        device=suite.device,
        rounds=suite.rounds,
        round_seconds=suite.round_seconds,
        case_seconds=sweep.case_seconds,
        only=sweep.only,
        load_together=suite.device == "cuda",
        passes=suite.passes,
    )
    print(f"\n{sweep.model}", flush=True)
    passes = run.prepare(plan, work)
    passes.measure(0)
    return [passes]


def _missing(sweep: Sweep, engine: str, why: str) -> Row:
    return Row(
        "throughput",
        sweep.model,
        "per_second",
        engine=engine,
        precision=sweep.precision or "",
        status="missing",
        note=why,
    )
