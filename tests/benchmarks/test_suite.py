"""Suites: their parts run one after the other, also where hardly anything is installed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import parts, rows, suite
from benchmarks.suites import SUITES, Suite, Sweep

ROOT = Path(__file__).resolve().parents[2]
TINY = Suite(
    device="cpu",
    minutes=10,
    parts={
        "demo": (Sweep("demo", "fp32", ("onnxruntime", "tensorrt"), ("eager",), (2,), ()),),
        "broken": (Sweep("no-such-model", "fp32", ("onnxruntime",), ("eager",), (2,)),),
    },
    rounds=2,
    round_seconds=0.01,
    passes=2,
)
# What a bare PyTorch image with open_clip beside it has not.
BLOCKED = ["msgspec", "onnxruntime", "onnxscript", "polygraphy", "tensorrt_rtx", "openvino"]


def test_parts_run_and_what_cannot_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_bare_image_measures_what_it_can(tmp_path: Path) -> None:
    """Only torch, open_clip and what they need: the rest of the installed packages is hidden."""
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
        "from pathlib import Path\nfrom benchmarks.parts import run_suite\nfrom benchmarks.suites import Suite, Sweep\n"
        "parts = {'models': (Sweep('ViT-B-32', None, (), ('eager',), (1,)),),\n"
        "         'engines': (Sweep('ViT-B-32', 'fp16', ('tensorrt-rtx',), ('eager',), (1,)),)}\n"
        f"run_suite(Suite('cpu', 10, parts, 2, 0.01), 'bare', list(parts), [], Path({str(tmp_path / 'rows')!r}), False)\n"
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
    assert {r.tower for r in found if r.value is not None and r.engine == "eager"} == {"image", "text"}
    missing = [r for r in found if r.status == "missing"]
    assert [(r.engine, r.note) for r in missing] == [("tensorrt-rtx", "not installed: msgspec")]


def test_the_time_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import dataclasses

    none = dataclasses.replace(TINY, minutes=0.0)
    assert not parts.run_suite(none, "tiny", ["demo"], [], tmp_path, again=False)
    assert "no time left" in capsys.readouterr().out


def test_suites_are_well_formed() -> None:
    from benchmarks.contenders import MODULES

    for one in SUITES.values():
        for sweeps in one.parts.values():
            for sweep in sweeps:
                assert set(sweep.contenders) <= set(MODULES)
                assert sweep.contenders[0] == "eager"
                assert sweep.precision is None or sweep.engines


def test_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert suite.main(["bench", "--parts", "dance"]) == 1
    assert "is none of ceilings, demo, models" in capsys.readouterr().err
    assert suite.main(["gpu"]) == 1
    assert "no NVIDIA GPU answers" in capsys.readouterr().err
