"""Bundles that a suite measures: exported now, with every engine that can be built here, within the time that is left."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.harness.bounded import run_bounded
from benchmarks.harness.plan import UserError
from benchmarks.harness.process import OUT_OF_TIME
from benchmarks.suites.definitions import MOST
from benchmarks.workloads.subject import Subject, subject_of_bundle, subject_of_model
from engines.engine_kinds import KINDS
from engines.precisions import QUANTIZED

if TYPE_CHECKING:
    from benchmarks.suites.definitions import Sweep

_CALIBRATION_IMAGES = 256
_GATE_SAMPLES = 16
_USUAL = 32


class NoTimeError(UserError):
    """The time was over before the bundle was made."""

    def __init__(self) -> None:
        super().__init__(OUT_OF_TIME)


def subject_of(sweep: Sweep, work: Path, end: float | None) -> Subject:
    """The model by its name, or a bundle of it that is exported now.

    Args:
        sweep: the model, precision and engines.
        work: folder for the bundle.
        end: time of ``time.monotonic()`` when the export is ended; None: no such time.

    Raises:
        UserError: the export failed.
        NoTimeError: the time was over before it was done.
    """
    if sweep.precision is None:
        return subject_of_model(sweep.model)
    import msgspec  # noqa: F401  (says early what a bare image lacks)
    import onnxscript  # noqa: F401

    bundle = work / "bundle"
    start = time.monotonic()
    with tempfile.TemporaryFile() as log:
        code = run_bounded(export_command(sweep, work, bundle), end, stdout=log, stderr=log)
        log.seek(0)
        lines = log.read().decode(errors="replace").strip().splitlines()
    if code is None:
        raise NoTimeError
    # An engine that could not be built is an error of the command, and none of the bundle that holds the others.
    if code != 0 and not (bundle / "manifest.json").is_file():
        raise UserError((lines or ["the export failed"])[-1].removeprefix("error: "))
    report = json.loads((bundle / "report.json").read_text(encoding="utf-8"))
    for why in dict.fromkeys(engine["why"] for engine in report["left_out"]):
        print(f"  left out: {why}")
    print(f"  exported {sweep.model} {sweep.precision} in {time.monotonic() - start:.0f} s", flush=True)
    return subject_of_bundle(bundle)


def export_command(sweep: Sweep, work: Path, bundle: Path) -> list[str]:
    """The exporter's command line for a sweep; the first batch is the one that packages are tuned for."""
    command = [sys.executable, "-m", "exporter", sweep.model, f"--{sweep.precision}", "--out", str(bundle)]
    if sweep.model != "demo":
        # With random weights 64 samples show the gate no more than these, and a suite's minutes are for its measurements.
        command += ["--pretrained", "none", "--parity-samples", str(_GATE_SAMPLES)]
        if sweep.precision in QUANTIZED:
            from benchmarks.workloads.inputs import calibration_folder

            command += ["--calibration", str(calibration_folder(work, _CALIBRATION_IMAGES))]
    for kind in sweep.engines:
        command += ["--engine", kind]
    if any(not KINDS[kind].any_batch for kind in sweep.engines):
        command += ["--batch", f"{_USUAL}:{MOST}:{MOST}", "--batch", f"1:1:{_USUAL}"]
    return command
