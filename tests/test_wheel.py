"""The wheel: what serves and exports is in it with its data, and what measures and tests is not."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# As a build tool calls it, with the setuptools that is installed: nothing is fetched.
BUILD = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The files of a wheel that is built from a copy, because a build leaves folders in the tree."""
    folder = tmp_path_factory.mktemp("wheel")
    tree, out = folder / "tree", folder / "out"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist")
    for path in ROOT.iterdir():
        if path.is_dir() and (path / "__init__.py").is_file():
            shutil.copytree(path, tree / path.name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    ran = subprocess.run([sys.executable, "-c", BUILD, str(out)], cwd=tree, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    (wheel,) = out.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_packages_are_those_that_serve_and_export(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"engines", "exporter", "kernels"}
    for package in ("engines", "exporter", "kernels"):
        modules = {path.relative_to(ROOT).as_posix() for path in (ROOT / package).rglob("*.py")}
        modules = {name for name in modules if not name.startswith("engines/cpp/")}  # sources, built from a clone
        assert modules <= set(names)


def test_data_is_in_it(names: list[str]) -> None:
    """Types, tables, the demo model, the format and the C++ example."""
    data = [
        path.relative_to(ROOT).as_posix()
        for package in ("engines", "exporter", "kernels")
        for pattern in ("py.typed", "*.csv", "*.safetensors", "FORMAT.md", "embed_aotinductor.cpp", "demo/model/*.json")
        for path in (ROOT / package).rglob(pattern)
    ]
    assert len(data) >= 10
    assert set(data) <= set(names)
