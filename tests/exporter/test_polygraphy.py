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
# Runs the command line with each of several lists of arguments, in one process, and prints where each begins.
PROGRAM = """
import json, sys
from polygraphy.tools import main
for arguments in json.loads(sys.argv[1]):
    print("BEGINS", flush=True)
    sys.argv = ["polygraphy", *arguments]
    try:
        status = main()
    except SystemExit as end:
        status = end.code
    assert not status, (arguments, status)
"""


def polygraphy(*commands: list[str]) -> list[str]:
    """What each command says."""
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"POLYGRAPHY_USE_TENSORRT_RTX": "1", "PYTHONUNBUFFERED": "1"},
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.split("BEGINS\n")[1:]


def test_graphs(rtx_bundle: Path, tmp_path: Path) -> None:
    commands = []
    for tower, shapes in SHAPES.items():
        graph = str(rtx_bundle / f"{tower}.onnx")
        values = ("--val-range", "pixels:[0,255]", "ids:[1,49407]")
        commands += [
            ["inspect", "model", graph],
            ["check", "lint", graph, "--input-shapes", shapes, "-o", str(tmp_path / f"{tower}.json")],
            ["run", graph, "--onnxrt", "--validate", "--input-shapes", shapes, *values],
        ]
    said = iter(polygraphy(*commands))
    for tower in SHAPES:
        inspected, _, ran = (next(said) for _ in range(3))
        assert "ONNX Opset: 23" in inspected
        assert f"{{{tower}_embeds [dtype=float32, shape=('N', 64)]}}" in inspected
        found = json.loads((tmp_path / f"{tower}.json").read_text())
        assert not found["lint_entries"]
        assert not found["summary"]["failing"]
        assert "PASSED" in ran
        assert "NaN" not in ran
