"""An export where a library is installed and broken: one sentence if the library is needed, and nothing at all if it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_libraries import BREAKAGES, break_library, run_python

CODE = "raise RuntimeError('it is broken')"


@pytest.mark.parametrize("library", ["torch", "open_clip", "onnx", "onnxscript"])
def test_what_every_export_needs(library: str, tmp_path: Path) -> None:
    first = break_library(tmp_path, library, CODE)
    ran = run_python("-m", "exporter", "demo", "--out", str(tmp_path / "out"), first=first)
    assert ran.returncode == 1, ran.stderr
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith(
        f"error: exporting needs {library}, which is installed and cannot be imported (RuntimeError: it is"
    )
    assert "Traceback" not in ran.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("code", list(BREAKAGES)[:4])
@pytest.mark.parametrize(("kind", "library"), [("openvino", "openvino"), ("tensorrt-rtx", "tensorrt_rtx")])
def test_an_engine_that_was_named(kind: str, library: str, code: str, tmp_path: Path) -> None:
    first = break_library(tmp_path, library, code)
    words = ("-m", "exporter", "demo", "--engine", kind, "--out", str(tmp_path / "out"))
    target = ("--target", "sm80") if kind == "tensorrt-rtx" else ()
    ran = run_python(*words, *target, first=first)
    assert ran.returncode == 1, ran.stderr
    last = ran.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert BREAKAGES[code] in last
    assert "Traceback" not in ran.stderr


def test_libraries_that_an_export_does_not_need(tmp_path: Path) -> None:
    """All of them are broken at once, and the bundle with ONNX Runtime's engine is written and verifies.

    Triton and cuda-bindings are not among them: PyTorch imports both, and takes no other error than an ImportError from them.
    """
    for library in ("openvino", "tensorrt", "tensorrt_rtx", "pyarrow", "pillow_heif", "nncf"):
        break_library(tmp_path / "broken", library, CODE)
    out = str(tmp_path / "out")
    words = ("-m", "exporter", "demo", "--towers", "text", "--parity-samples", "8", "--out", out)
    ran = run_python(*words, first=tmp_path / "broken")
    assert ran.returncode == 0, ran.stderr
    verified = run_python("-m", "engines", "verify", out, first=tmp_path / "broken")
    assert verified.returncode == 0, verified.stderr
