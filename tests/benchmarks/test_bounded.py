"""Nothing goes on after the time is over: commands, their own children, contenders, and exports."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.contenders import Contender
from benchmarks.harness.bounded import run_bounded
from benchmarks.harness.plan import Plan, UserError
from benchmarks.harness.process import OUT_OF_TIME, OutOfTimeError, started
from benchmarks.harness.run import Run
from benchmarks.records import rows
from benchmarks.records.machine import this_machine
from benchmarks.suites.definitions import SUITES, Sweep
from benchmarks.suites.exports import NoTimeError, export_command, subject_of
from benchmarks.workloads.inputs import image_case
from benchmarks.workloads.subject import Subject

# Starts a child of its own that sleeps, says its number, and waits. A shell, which is ready long before Python would be.
PARENT = ["sh", "-c", "sleep 600 & echo $!; wait"]
DEMO = Sweep("demo", "fp32", ("onnxruntime",), ("eager",), (1,))
MODEL = Subject("ViT-S-32", "ViT-S-32", "none", (224, 224), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 77)


def gone(pid: int, within: float = 60.0) -> bool:
    end = time.monotonic() + within
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            return True
        if state == "Z":  # ended, and nobody has asked for its exit code yet
            return True
        time.sleep(0.02)
    return False


def test_a_command_ends_with_what_it_started(tmp_path: Path) -> None:
    start = time.monotonic()
    with (tmp_path / "out").open("wb") as out:
        assert run_bounded(PARENT, start + 2, stdout=out) is None
    assert time.monotonic() - start < 20
    assert gone(int((tmp_path / "out").read_text()))


def test_it_may_say_what_it_has_found(tmp_path: Path) -> None:
    code = "trap 'echo 3 passed; exit' INT; sleep 600 & wait"
    with (tmp_path / "out").open("wb") as out:
        assert run_bounded(["sh", "-c", code], time.monotonic() + 2, stdout=out, patience=20) is None
    assert (tmp_path / "out").read_text() == "3 passed\n"


def test_exit_codes_are_handed_on() -> None:
    assert run_bounded([sys.executable, "-c", "raise SystemExit(3)"], None) == 3


def test_a_killed_run_takes_its_children_with_it(tmp_path: Path) -> None:
    """Kill -9 leaves no time for any cleaning up."""
    inner = f"import os; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); import time; time.sleep(600)"
    outer = f"import sys; from benchmarks.harness.bounded import run_bounded; run_bounded([sys.executable, '-c', {inner!r}], None)"
    with subprocess.Popen([sys.executable, "-c", outer]) as process:
        pid = tmp_path / "pid"
        while not (pid.exists() and pid.read_text()):
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert gone(int(pid.read_text()))


def test_a_killed_run_takes_contenders_that_are_at_work_with_it(tmp_path: Path) -> None:
    outer = (
        "import time; from benchmarks.harness.process import ContenderProcess; from benchmarks.contenders import Contender\n"
        "process = ContenderProcess(Contender('null', 'fp32')); print(process._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", outer], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        os.kill(pid, 0)
        process.kill()
    assert gone(pid)


def test_no_answer_is_waited_for_after_the_end() -> None:
    """Loading PyTorch alone takes longer than this contender has."""
    start = time.monotonic()
    with started(Contender("eager", "fp32"), end=start + 0.3) as process, pytest.raises(OutOfTimeError):
        process.why_not(MODEL, "cpu")
    assert not process.alive
    assert time.monotonic() - start < 20


@pytest.mark.long
def test_a_compile_ends_with_the_time(tmp_path: Path) -> None:
    """The warm-up of torch.compile takes half a minute."""
    start = time.monotonic()
    end = start + 8.0
    run = Run(tmp_path / "rows", this_machine(), "x", deadline=end, end=end)
    plan = Plan(
        MODEL,
        (Contender("null", "fp32"), Contender("torch.compile max-autotune", "fp32")),
        lambda work: [image_case(work, MODEL, 1)],
        "cpu",
        2,
        0.001,
        passes=1,
    )
    run.measure(plan, tmp_path)
    run.finish()
    assert time.monotonic() - end < 20  # of a compile that takes longer than that
    assert not run.complete
    found = {r.engine: r for r in rows.read(tmp_path / "rows" / "throughput.csv") if r.figure == "per_second"}
    assert found["torch.compile max-autotune"].status == "missing"
    assert found["torch.compile max-autotune"].note == OUT_OF_TIME


def test_an_export_ends_with_the_time(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(NoTimeError, match="out of time"):
        subject_of(DEMO, tmp_path, start + 1.0)
    assert time.monotonic() - start < 20
    assert not (tmp_path / "bundle").exists()


def exiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: Path | None, says: str) -> None:
    """The exporter ends with code 1, with a bundle or without."""
    copy = ""
    if bundle is not None:
        report = json.loads((bundle / "report.json").read_text())
        report["left_out"] = [
            {"kind": "tensorrt", "why": "engine tensorrt needs a GPU", "tower": t} for t in ("image", "text")
        ]
        (tmp_path / "report.json").write_text(json.dumps(report))
        copy = (
            f"import shutil; shutil.copytree({str(bundle)!r}, {str(tmp_path / 'bundle')!r})\n"
            f"shutil.copy({str(tmp_path / 'report.json')!r}, {str(tmp_path / 'bundle')!r})\n"
        )
    code = f"{copy}import sys; print({says!r}, file=sys.stderr); sys.exit(1)"
    monkeypatch.setattr("benchmarks.suites.exports.export_command", lambda *given: [sys.executable, "-c", code])


def test_an_engine_that_cannot_be_built_leaves_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    exiting(tmp_path, monkeypatch, demo_bundle, "left out: what is said for people\nerror: not all engines")
    assert subject_of(DEMO, tmp_path, None).kinds == ("onnxruntime",)
    assert capsys.readouterr().out.count("  left out: engine tensorrt needs a GPU\n") == 1


def test_a_failed_export_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exiting(tmp_path, monkeypatch, None, "error: no such thing")
    with pytest.raises(UserError, match=r"^no such thing$"):
        subject_of(DEMO, tmp_path, None)


def test_packages_are_tuned_for_the_batch_that_is_measured(tmp_path: Path) -> None:
    """The first ``--batch`` is the one that AOTInductor chooses kernels for."""
    for step in SUITES["gpu"].parts["engines"]:
        assert isinstance(step, Sweep)
        command = export_command(step, tmp_path, tmp_path / "bundle")
        assert command[command.index("--batch") + 1].split(":")[1] == str(step.batches[0])


def test_sigterm_is_an_interruption() -> None:
    from benchmarks.harness.bounded import interrupted_by_sigterm

    with interrupted_by_sigterm() as came, pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)
    assert came == [signal.SIGTERM]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_plan_without_an_end_has_none(tmp_path: Path) -> None:
    assert not Run(tmp_path, this_machine(), "x").over
    assert Run(tmp_path, this_machine(), "x", end=0.0).over
    assert dataclasses.replace(SUITES["gpu"], minutes=0.0).minutes == 0.0
