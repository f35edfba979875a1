"""tests/floor.py: the lowest versions that pyproject.toml allows, as pins."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from floor import (
    EXTRAS,
    NOT_AT_THEIR_FLOOR,
    ROOT,
    FloorError,
    find_python,
    floors,
    python_version,
    read_floors,
    requirements,
)

PROJECT: dict[str, Any] = {
    "dependencies": ["numpy>=1.26"],
    "optional-dependencies": {"cpu": ["onnxruntime>=1.23"], "export": ["Open_Clip.Torch >= 3.2, <5", "numpy>=1.26"]},
}


class TestFloors:
    def test_each_bound_becomes_the_only_version(self) -> None:
        assert floors(requirements(PROJECT, ["cpu", "export"])) == [
            "numpy==1.26",
            "onnxruntime==1.23",
            "open-clip-torch==3.2",
        ]
        assert floors(requirements(PROJECT, [])) == ["numpy==1.26"]

    def test_extras_and_markers_of_a_requirement(self) -> None:
        lines = ['numpy>=1.26 ; python_version < "3.13"', 'numpy>=2.1; python_version >= "3.13"', "httpx[http2]>=0.27"]
        assert floors(lines) == [
            "httpx==0.27",
            'numpy==1.26 ; python_version < "3.13"',
            'numpy==2.1 ; python_version >= "3.13"',
        ]

    @pytest.mark.parametrize("line", ["numpy", "numpy<3", "numpy>1.26", "numpy==1.26", "numpy~=1.26"])
    def test_without_a_lower_bound(self, line: str) -> None:
        with pytest.raises(FloorError, match="has no lower bound: write numpy>=VERSION"):
            floors([line])

    def test_what_is_no_requirement(self) -> None:
        with pytest.raises(FloorError, match="is no requirement"):
            floors([">=1.26"])

    def test_two_floors(self) -> None:
        with pytest.raises(FloorError, match=r"numpy has two floors in pyproject.toml, 1\.26 and 2\.0"):
            floors(["numpy>=1.26", "NumPy>=2.0"])

    def test_an_extra_that_is_not_there(self) -> None:
        with pytest.raises(FloorError, match="no extra 'rtx': it has cpu, export"):
            requirements(PROJECT, ["rtx"])


def test_this_project_has_a_floor_for_everything() -> None:
    pins = read_floors()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*( ; .+)?", pin) for pin in pins)
    names = {pin.partition("==")[0] for pin in pins}
    assert {"torch", "torchvision", "numpy", "onnx-ir", "transformers", "open-clip-torch", "pytest"} <= names
    assert not names & NOT_AT_THEIR_FLOOR
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8").lower().replace("_", "-")
    for pin in pins:
        assert f'"{pin.partition(" ;")[0].replace("==", ">=")}' in text
    assert {"cpu", "export", "dev"} <= set(EXTRAS)


class TestPython:
    def test_this_one_runs(self) -> None:
        assert python_version(sys.executable) == sys.version_info[:2]

    def test_a_shim_that_fails_is_none(self, tmp_path: Path) -> None:
        shim = tmp_path / "python3.12"
        shim.write_text("#!/bin/sh\nexit 127\n")
        shim.chmod(0o755)
        assert python_version(str(shim)) is None
        assert python_version(str(tmp_path / "python3.13")) is None

    def test_the_one_that_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHON_FLOOR", sys.executable)
        assert find_python() == sys.executable
        monkeypatch.setenv("PYTHON_FLOOR", "/nowhere/python")
        with pytest.raises(FloorError, match="PYTHON_FLOOR=/nowhere/python does not run"):
            find_python()

    def test_pyenv_is_looked_through(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A shim of a version that is not active stands on the path, and fails."""
        for folder, script in {"path": "exit 127", "pyenv/versions/3.12.9/bin": "echo 3 12"}.items():
            (tmp_path / folder).mkdir(parents=True)
            python = tmp_path / folder / ("python3.12" if folder == "path" else "python")
            python.write_text(f"#!/bin/sh\n{script}\n")
            python.chmod(0o755)
        monkeypatch.delenv("PYTHON_FLOOR", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path / "path"))
        monkeypatch.setenv("PYENV_ROOT", str(tmp_path / "pyenv"))
        if sys.version_info[:2] == (3, 12):
            assert find_python() == sys.executable
        else:
            assert find_python() == str(tmp_path / "pyenv" / "versions" / "3.12.9" / "bin" / "python")

    def test_else_this_one(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("PYTHON_FLOOR", raising=False)
        monkeypatch.setenv("PATH", str(tmp_path))
        monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
        assert find_python() == sys.executable
