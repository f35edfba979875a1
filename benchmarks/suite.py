"""Fixed lists of models, engines and batches: ``make bench`` on a CPU, ``make gpu`` on a machine with a GPU.

A suite is made of named parts, which run one after the other until its minutes are over; started again, it goes on from there. On
a CPU, further passes over all models follow, so that each is measured several times, minutes apart: two at least, and a third one
where there is time. Each part needs only what it measures: on a bare PyTorch image with open_clip the engines' rows say what is
missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.ceilings import measure_ceilings, print_ceilings
from benchmarks.contenders import contenders_of
from benchmarks.machine import Machine, this_machine
from benchmarks.rounds import Passes
from benchmarks.rows import Row
from benchmarks.run import Plan, Run, UserError
from benchmarks.subject import Subject, subject_of_bundle, subject_of_model
from benchmarks.suites import GPU_BATCHES, KERNEL_TOWERS, MOST, SUITES, Suite, Sweep
from benchmarks.throughput import RESULTS, make_cases

_ROOT = Path(__file__).resolve().parents[1]
_CALIBRATION_IMAGES = 256
_GATE_SAMPLES = 16
_LAST_CASE = 20.0  # seconds before the end, after which none is begun
_TESTS_SHARE = 0.35  # of the suite's time, at most


def run_suite(suite: Suite, name: str, parts: Sequence[str], models: Sequence[str], results: Path, again: bool) -> bool:
    """Run parts of a suite.

    Returns:
        Whether everything was measured: False where the time was over before.
    """
    deadline = time.monotonic() + 60 * suite.minutes - _LAST_CASE
    machine = this_machine(suite.device)
    run = Run(results, machine, f"suite {name}", again=again, deadline=deadline)
    passes: list[Passes] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        for part in parts:
            print(
                f"\n== {part} ({machine.name}; {max(0.0, deadline - time.monotonic()) / 60:.1f} minutes left)",
                flush=True,
            )
            if part == "ceilings":
                _ceilings(run, suite.device)
            elif part == "kernels":
                _kernels(run, machine, deadline)
            elif part == "tests":
                _gpu_tests(results, _TESTS_SHARE * (deadline - time.monotonic()))
            for number, sweep in enumerate(suite.parts[part]):
                if sweep.model in models or not models:
                    place = Path(folder) / f"{part}-{number}"
                    place.mkdir()
                    passes += _sweep(run, suite, sweep, place)
        for number in range(1, suite.passes):
            left = max(0.0, deadline - time.monotonic()) / 60
            print(f"\n== pass {number + 1} of {suite.passes} ({left:.1f} minutes left)", flush=True)
            for one in passes:
                one.measure(number)
    run.finish()
    return run.complete


def _ceilings(run: Run, device: str) -> None:
    if run.is_done(("ceiling", "copy", "", "torch", "", "0", "")):
        return
    try:
        found = measure_ceilings(device)
    except ImportError as error:
        print(f"  not installed: {error.name}")
        return
    run.add(found, device)
    print_ceilings(found)


def _kernels(run: Run, machine: Machine, deadline: float) -> None:
    """Every op at the shapes that the suite's models have."""
    try:
        from benchmarks import kernel_ops
    except ImportError as error:
        print(f"  not installed: {error.name}")
        return
    _, enough = kernel_ops.run(
        KERNEL_TOWERS,
        GPU_BATCHES,
        "fp16",
        machine,
        run.folder,
        5,
        choices=False,
        deadline=deadline,
        is_done=run.is_done,
    )
    run.complete = run.complete and enough


def _gpu_tests(results: Path, seconds: float) -> None:
    """The tests marked ``gpu``, their output in ``tests.txt`` beside the rows."""
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-rs", "--no-header", "-p", "no:cacheprovider"]
    command.append("--continue-on-collection-errors")  # a bare image lacks what some of them import
    log = results / "tests.txt"
    with log.open("wb") as file:
        try:
            ran = subprocess.run(
                command, cwd=_ROOT, stdout=file, stderr=subprocess.STDOUT, timeout=seconds, check=False
            )
            end = f"exit code {ran.returncode}"
        except subprocess.TimeoutExpired:
            end = f"stopped after {seconds:.0f} s"
            file.write(f"\n{end}\n".encode())
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    print("  " + "\n  ".join(lines[-12:]) + f"\n  {end}; {log}", flush=True)


def _sweep(run: Run, suite: Suite, sweep: Sweep, work: Path) -> list[Passes]:
    """The first pass over a model; others may follow, or none where it cannot be measured."""
    if run.late:
        print(f"  {sweep.model}: no time left")
        run.complete = False
        return []
    try:
        subject = _subject(sweep, work)
    except (UserError, ImportError, ValueError) as error:
        what = f"not installed: {error.name}" if isinstance(error, ImportError) else str(error)
        print(f"  {sweep.model}: {what}")
        run.add([_missing(sweep, engine, what) for engine in sweep.engines or ("eager",)], suite.device)
        return []
    plan = Plan(
        subject=subject,
        contenders=tuple(contenders_of(subject, suite.device, (*sweep.contenders, *subject.kinds))),
        cases=make_cases(subject, ("image", "text"), sweep.batches, sweep.texts, sweep.files, None),
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


def _subject(sweep: Sweep, work: Path) -> Subject:
    """The model by its name, or a bundle of it that is exported now, with every engine that can be built here.

    Raises:
        UserError: the export failed.
    """
    if sweep.precision is None:
        return subject_of_model(sweep.model)
    import msgspec  # noqa: F401  (says early what a bare image lacks)
    import onnxscript  # noqa: F401

    bundle = work / "bundle"
    command = [sys.executable, "-m", "exporter", sweep.model, f"--{sweep.precision}", "--out", str(bundle)]
    if sweep.model != "demo":
        # Of random weights the gate sees no more in 64 samples than in these, and a suite's minutes are for what it measures.
        command += ["--pretrained", "none", "--parity-samples", str(_GATE_SAMPLES)]
        if sweep.precision in ("int8", "fp8"):
            command += ["--calibration", str(_calibration(work))]
    for kind in sweep.engines:
        command += ["--engine", kind]
    if set(sweep.engines) & {"tensorrt", "tensorrt-rtx"}:
        command += ["--batch", f"1:1:{GPU_BATCHES[1]}", "--batch", f"{GPU_BATCHES[1]}:{MOST}:{MOST}"]
    start = time.monotonic()
    paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    ran = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths}, check=False)
    if ran.returncode != 0:
        raise UserError((ran.stderr.strip().splitlines() or ["the export failed"])[-1].removeprefix("error: "))
    notes = [line for line in ran.stderr.splitlines() if line.startswith("left out: ")]
    for line in notes:
        print(f"  {line}")
    print(f"  exported {sweep.model} {sweep.precision} in {time.monotonic() - start:.0f} s", flush=True)
    return subject_of_bundle(bundle)


def _calibration(work: Path) -> Path:
    """A folder of natural pictures."""
    from exporter.parity_data import load_parity_data

    folder = work / "calibration"
    folder.mkdir()
    for i, picture in enumerate(load_parity_data(None, images=_CALIBRATION_IMAGES, captions=1, seed=2).images):
        picture.thumbnail((512, 512))
        picture.save(folder / f"{i:03}.png")
    return folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run a suite; its rows go to a folder of their own machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks suite", description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--parts", help="comma-separated; default all, in order")
    parser.add_argument("--models", default="", help="comma-separated; default all")
    parser.add_argument("--minutes", type=float, help="after which no case is begun")
    parser.add_argument("--out", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), help=argparse.SUPPRESS
    )  # to try the GPU's suite without one
    parser.add_argument("--again", action="store_true", help="measure anew what an interrupted run has measured")
    args = parser.parse_args(argv)
    suite = _changed(SUITES[args.suite], args.minutes, args.device)
    parts = args.parts.split(",") if args.parts else list(suite.parts)
    unknown = [part for part in parts if part not in suite.parts]
    if unknown:
        print(f"error: part {unknown[0]!r} is none of {', '.join(suite.parts)}", file=sys.stderr)
        return 1
    try:
        machine: Machine = this_machine(suite.device)
        results = args.out or RESULTS / machine.slug / suite.folder
        models = [name for name in args.models.split(",") if name]
        complete = run_suite(suite, args.suite, parts, models, results, args.again)
    except (UserError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: what was measured is kept; the same command goes on from there", file=sys.stderr)
        return 130
    print(f"\nrows: {results}/" + ("" if complete else "  (the time was over: the same command goes on from there)"))
    return 0


def _changed(suite: Suite, minutes: float | None, device: str | None) -> Suite:
    return dataclasses.replace(suite, minutes=minutes or suite.minutes, device=device or suite.device)
