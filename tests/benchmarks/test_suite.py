"""Suites: their parts run one after the other, also where hardly anything is installed."""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from edited_bundles import relist

from benchmarks import suite
from benchmarks.harness.process import OUT_OF_TIME
from benchmarks.records import rows
from benchmarks.suites import parts
from benchmarks.suites.definitions import SUITES, Kernels, Suite, Sweep
from benchmarks.suites.exports import export_command
from benchmarks.suites.stand_in import stand_in
from benchmarks.suites.step import CHOICES
from exporter.__main__ import build_parser
from kernels import choices

ROOT = Path(__file__).resolve().parents[2]
TINY = Suite(
    device="cpu",
    minutes=10,
    parts={
        "demo": (Sweep("demo", "fp32", ("onnxruntime", "tensorrt"), ("eager",), (2,), ()),),
        "broken": (Sweep("no-such-model", "fp32", ("onnxruntime",), ("eager",), (2,)),),
    },
    rounds=2,
    round_seconds=0.001,
    passes=2,
)
# What a bare PyTorch image with open_clip beside it has not.
BLOCKED = ["msgspec", "onnxruntime", "onnxscript", "polygraphy", "tensorrt_rtx", "openvino"]


@pytest.mark.parametrize("exports", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_parts_run_and_what_cannot_says_why(
    exports: bool,
    demo_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not exports:
        prepared = Path(shutil.copytree(demo_bundle, tmp_path / "prepared"))
        report = json.loads((prepared / "report.json").read_text(encoding="utf-8"))
        report["left_out"] = [{"kind": "tensorrt", "why": "there is no GPU"}]
        (prepared / "report.json").write_text(json.dumps(report), encoding="utf-8")
        relist(prepared, ["report.json"])
        monkeypatch.setattr("benchmarks.suites.exports.export_command", functools.partial(copy_of, prepared))
    assert parts.run_suite(TINY, "tiny", ["demo", "broken"], [], tmp_path, again=False)
    shown = capsys.readouterr().out
    assert "== demo" in shown
    assert shown.index("== broken") < shown.index("== pass 2 of 2") < shown.index("image, batch 2, 64x64\n")
    assert "left out: " in shown  # tensorrt, without a GPU
    found = rows.read(tmp_path / "throughput.csv")
    engines = {(r.tower, r.engine) for r in found if r.value is not None and r.figure == "per_second"}
    assert engines == {("image", "eager"), ("image", "onnxruntime")}
    assert {len(r.by_pass) for r in found if r.value is not None} == {2}
    broken = [r for r in found if r.model == "no-such-model"]
    assert [r.status for r in broken] == ["missing"]
    assert "no-such-model" in broken[0].note


def copy_of(prepared: Path, sweep: Sweep, work: Path, bundle: Path) -> list[str]:
    """In place of the exporter's command for a sweep: copy a bundle whose report has an engine that is left out."""
    command = export_command(sweep, work, bundle)
    assert command[1:3] == ["-m", "exporter"]
    assert build_parser().parse_args(command[3:]).engines == list(sweep.engines)
    if sweep.model != "demo":
        return [sys.executable, "-c", f"import sys; sys.exit('error: {sweep.model} is not known')"]
    code = f"import shutil, sys; shutil.copytree({str(prepared)!r}, {str(bundle)!r}); sys.exit(1)"
    return [sys.executable, "-c", code]


@pytest.mark.long
@pytest.mark.parametrize("texts", [(), pytest.param(("real",), marks=pytest.mark.slow)])
def test_a_bare_image_measures_what_it_can(texts: tuple[str, ...], tmp_path: Path) -> None:
    """Only torch, open_clip and what they need: the rest of the installed packages is hidden.

    Texts are made in any case; that the text tower is measured, too, is the slow test.
    """
    code = (
        "import sys\n"
        f"BLOCKED = {BLOCKED!r}\n"
        "class Hiding:\n"
        "    def __init__(self, finder): self.finder = finder\n"
        "    def __getattr__(self, name): return getattr(self.finder, name)\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        return None if name.split('.')[0] in BLOCKED else self.finder.find_spec(name, path, target)\n"
        "sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]\n"
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(code)
    (tmp_path / "bare.py").write_text(
        "from pathlib import Path\nfrom benchmarks.suites.parts import run_suite\n"
        "from benchmarks.suites.definitions import Suite, Sweep\n"
        "from benchmarks.workloads.inputs import text_case\nfrom benchmarks.workloads.subject import subject_of_model\n"
        f"made = text_case(Path({str(tmp_path)!r}), subject_of_model('ViT-S-32'), 2, False).load()\n"
        "assert made.shape[1:] == (2, 77), made.shape\n"
        f"parts = {{'models': (Sweep('ViT-S-32', None, (), ('eager',), (1,), {texts!r}),),\n"
        "         'engines': (Sweep('ViT-S-32', 'fp16', ('tensorrt-rtx',), ('eager',), (1,)),)}\n"
        f"run_suite(Suite('cpu', 10, parts, 2, 0.001), 'bare', list(parts), [], Path({str(tmp_path / 'rows')!r}), False)\n"
    )
    ran = subprocess.run(
        [sys.executable, str(tmp_path / "bare.py")],
        env={"PYTHONPATH": f"{tmp_path / 'site'}:{ROOT}", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = rows.read(tmp_path / "rows" / "throughput.csv")
    assert {r.tower for r in found if r.value is not None and r.engine == "eager"} == {"image", *["text"] * len(texts)}
    missing = [r for r in found if r.status == "missing"]
    assert [(r.engine, r.note) for r in missing] == [("tensorrt-rtx", "not installed: msgspec")]


def test_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    none = dataclasses.replace(TINY, minutes=0.0)
    assert not parts.run_suite(none, "tiny", ["demo"], [], tmp_path, again=False)
    assert "no time left" in capsys.readouterr().out


def test_suites_are_well_formed() -> None:
    from benchmarks.contenders import MODULES
    from benchmarks.kernel_timing.cases import OPS, towers_named

    for one in SUITES.values():
        for step in (step for steps in one.parts.values() for step in steps):
            if isinstance(step, Sweep):
                assert set(step.contenders) <= set(MODULES)
                assert step.contenders[0] == "eager"
                assert step.precision is None or step.engines
            elif isinstance(step, Kernels):
                assert set(step.ops) <= set(OPS)
                assert len(towers_named(list(step.towers))) >= len(step.towers)


def test_wrong_input(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert suite.main(["bench", "--parts", "dance"]) == 1
    assert "is none of ceilings, demo, models" in capsys.readouterr().err
    assert suite.main(["bench", "--minutes", "-1"]) == 1
    assert "--minutes -1 is less than 0" in capsys.readouterr().err
    assert suite.main(["gpu", "--stand-in"]) == 1
    assert "--stand-in needs --out" in capsys.readouterr().err
    assert suite.main(["bench", "--stand-in", "--out", str(tmp_path)]) == 1
    assert "--stand-in is for the suite gpu" in capsys.readouterr().err


def test_no_gpu_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    assert suite.main(["gpu"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: no NVIDIA GPU answers here")
    assert said.count("\n") == 1


def test_a_driver_that_pytorch_cannot_use_is_one_sentence(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The card answers, and PyTorch refuses: here because there is no driver at all, elsewhere because it is too old."""

    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho NVIDIA Test\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    if not torch.cuda.is_available():
        assert suite.main(["gpu"]) == 1
        said = capsys.readouterr().err
        assert said.startswith(f"error: PyTorch {torch.__version__} cannot use the GPU: ")
        assert said.count("\n") == 1

    def refuse() -> None:
        raise RuntimeError(
            "The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading "
            "and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"
        )

    monkeypatch.setattr(torch.cuda, "init", refuse)
    assert suite.main(["gpu"]) == 1
    said = capsys.readouterr().err
    assert "driver on your system is too old (found version 11040)" in said
    assert said.count("\n") == 1


@pytest.mark.long
def test_a_step_that_crashes_costs_its_own_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a kernel that writes out of bounds does: nothing computes on that GPU in that process any more. The next steps go on."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(
        "import sys\n"
        "if 'benchmarks.suites.step' in sys.orig_argv and 'keep_package' in open(sys.orig_argv[-1]).read():\n"
        "    import os, signal; os.kill(os.getpid(), signal.SIGSEGV)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(site))
    small = stand_in(SUITES["gpu"])
    assert not parts.run_suite(small, "gpu", ["packages", "ceilings", "norm"], [], tmp_path / "rows")
    assert "packages: its process ended with signal 11" in capsys.readouterr().out
    failed = rows.read(tmp_path / "rows" / "package.csv")
    assert [(row.status, row.batch) for row in failed] == [("failed", 2), ("failed", 1)]
    assert "signal 11" in failed[0].note
    assert any(row.value for row in rows.read(tmp_path / "rows" / "ceiling.csv"))
    measured = {row.model for row in rows.read(tmp_path / "rows" / "kernel.csv") if row.value}
    assert measured == {"add_layer_norm", "patches", "l2_normalize"}
    # On a CPU nothing is chosen: the table travels as it is.
    assert (tmp_path / "rows" / CHOICES).read_bytes() == choices.TABLE.read_bytes()


def test_a_run_that_is_cut_off_goes_on(tmp_path: Path) -> None:
    """SIGTERM, which `timeout` sends: rows stay, nothing stays at work, and the same command measures the rest."""
    command = [sys.executable, "-m", "benchmarks", "suite", "gpu", "--stand-in", "--parts", "facts,packages"]
    command += ["--out", str(tmp_path / "rows"), "--commit", "0123456789"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        for line in process.stdout:
            if line.startswith("== packages"):
                break
        time.sleep(2)  # its child is at work
        process.terminate()
        process.stdout.read()  # a child that goes on would hold the pipe open
        assert "the same command goes on from there" in process.stderr.read()
    assert process.returncode == 128 + signal.SIGTERM
    before = rows.read(tmp_path / "rows")
    assert {row.what for row in before} == {"fact", "gemm"}
    assert {row.commit for row in before} == {"0123456789"}
    assert next(row.note for row in before if row.model == "python") == platform.python_version()
    assert next(row.status for row in before if row.model == "tensorrt") in ("ok", "missing")
    ran = subprocess.run([*command, "--minutes", "0"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0
    assert "no time left" in ran.stdout
    after = rows.read(tmp_path / "rows")
    assert [row for row in after if row.what != "package"] == before  # not measured again
    assert {(row.what, row.note) for row in after if row.what == "package"} == {("package", OUT_OF_TIME)}


def test_an_architecture_that_nothing_was_measured_on(tmp_path: Path) -> None:
    table = Path(shutil.copy(choices.TABLE, tmp_path / "table.csv"))
    said = choices.unmeasured("sm999", table) or ""
    assert said.startswith("no kernel was measured on sm999, so kernels=auto takes PyTorch's own everywhere: ")
    row = choices.Row("sm999", "l2_normalize", "float16", "256x1024", "triton", 1.0, "a card", "x")
    choices.merge([row], table)
    assert choices.unmeasured("sm999", table) is None


def test_without_a_compiler_a_package_is_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    small = stand_in(SUITES["gpu"])
    assert parts.run_suite(small, "gpu", ["packages"], [], tmp_path)
    failed = rows.read(tmp_path / "package.csv")
    assert [(row.status, row.batch) for row in failed] == [("failed", 2), ("failed", 1)]
    assert "a package needs a C++ compiler, and no-such-compiler is not there: apt-get install g++" in failed[0].note
    assert "Traceback" not in capsys.readouterr().out


@pytest.mark.long
def test_failures_are_printed_though_a_test_hangs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks.harness.run import Run
    from benchmarks.records.machine import this_machine
    from benchmarks.suites import gpu_tests

    (tmp_path / "test_some.py").write_text(
        "import time\nimport pytest\npytestmark = pytest.mark.gpu\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert 'this' == 'that'\n"
        "@pytest.mark.slow\ndef test_is_slow(): assert False\n"
        "def test_hangs(): time.sleep(600)\n"
    )
    run = Run(tmp_path / "rows", this_machine(), "x")
    start = time.monotonic()
    gpu_tests.run_gpu_tests(run, [str(tmp_path)], start + 30, last_words=10)
    assert time.monotonic() - start < 30 + 30
    text = (tmp_path / "rows" / gpu_tests.LOG).read_text()
    assert "assert 'this' == 'that'" in text
    found = {row.figure: row.value for row in rows.read(tmp_path / "rows" / "tests.csv")}
    assert found["passed"] == 1
    assert (found["failed"] or 0) >= 1
    assert "test_is_slow" not in text
