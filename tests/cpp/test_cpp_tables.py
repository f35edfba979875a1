"""The generated tables of the C++ library's text cleaning are what the installed ftfy and Unicode data give."""

from __future__ import annotations

import importlib.util
import unicodedata
from pathlib import Path
from types import ModuleType

import ftfy
import pytest


@pytest.fixture(scope="module")
def program() -> ModuleType:
    path = Path(__file__).parents[2] / "engines/cpp/tools/make_tables.py"
    spec = importlib.util.spec_from_file_location("make_tables", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _skip_with_other_data(program: ModuleType) -> None:
    recorded, installed = program.recorded_versions(), (ftfy.__version__, unicodedata.unidata_version)
    if recorded != installed:
        pytest.skip(
            f"the tables are of ftfy {recorded[0]} and Unicode {recorded[1]}, here are {' and '.join(installed)}"
        )


def test_tables_are_current(program: ModuleType) -> None:
    _skip_with_other_data(program)
    assert program.generated() == program.TABLES.read_text(encoding="utf-8")


def test_check_says_what_to_run(
    program: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "tables.cpp"
    other.write_text("// ftfy 0.1, Unicode 1.0\n", encoding="utf-8")
    monkeypatch.setattr(program, "TABLES", other)
    monkeypatch.setattr(program, "generated", lambda: "// new\n")
    assert program.main(["--check"]) == 1
    assert "run engines/cpp/tools/make_tables.py" in capsys.readouterr().err
    assert other.read_text(encoding="utf-8").startswith("// ftfy 0.1")
    assert program.main([]) == 0
    assert program.main(["--check"]) == 0


def test_recorded_versions_must_be_there(program: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="names no releases"):
        program.recorded_versions(tmp_path / "empty")
