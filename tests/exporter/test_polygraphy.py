"""NVIDIA's Polygraphy reads, lints and runs our graphs: a check by a tool that nobody here wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("polygraphy")
pytest.importorskip("onnx_graphsurgeon")
SHAPES = {"image": "pixels:[2,64,64,3]", "text": "ids:[2,12]"}


def polygraphy(*arguments: str) -> str:
    ran = subprocess.run(
        [str(Path(sys.executable).with_name("polygraphy")), *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("tower", ["image", "text"])
class TestGraphs:
    def test_inspect(self, tower: str, rtx_bundle: Path) -> None:
        said = polygraphy("inspect", "model", str(rtx_bundle / f"{tower}.onnx"))
        assert "ONNX Opset: 23" in said
        assert f"{{{tower}_embeds [dtype=float32, shape=('N', 64)]}}" in said

    def test_lint(self, tower: str, rtx_bundle: Path, tmp_path: Path) -> None:
        report = tmp_path / "lint.json"
        graph = str(rtx_bundle / f"{tower}.onnx")
        polygraphy("check", "lint", graph, "--input-shapes", SHAPES[tower], "-o", str(report))
        found = json.loads(report.read_text())
        assert not found["lint_entries"]
        assert not found["summary"]["failing"]

    def test_run(self, tower: str, rtx_bundle: Path) -> None:
        graph = str(rtx_bundle / f"{tower}.onnx")
        said = polygraphy(
            "run",
            graph,
            "--onnxrt",
            "--validate",
            "--input-shapes",
            SHAPES[tower],
            "--val-range",
            "pixels:[0,255]",
            "ids:[1,49407]",
        )
        assert "PASSED" in said
        assert "NaN" not in said
