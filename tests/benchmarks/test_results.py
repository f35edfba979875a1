"""benchmarks: rows are replaced by key, tables are those of the rows, and those of README and docs are up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import open_clip
import pytest

from benchmarks import tables, zoo
from benchmarks.harness.timing import alternate
from benchmarks.records.csv_file import read_rows, upsert
from benchmarks.workloads.architectures import CLASSIC, architectures

COLUMNS, KEY = ("model", "tower", "seconds"), ("model", "tower")


def test_upsert(tmp_path: Path) -> None:
    path = tmp_path / "results" / "x.csv"
    assert read_rows(path) == []
    upsert(path, [{"model": "a", "tower": "image", "seconds": 1.5}, {"model": "b", "tower": "image"}], COLUMNS, KEY)
    upsert(
        path,
        [{"model": "a", "tower": "image", "seconds": 2}, {"model": "a", "tower": "text", "seconds": 3}],
        COLUMNS,
        KEY,
    )
    assert [tuple(row.values()) for row in read_rows(path)] == [
        ("a", "image", "2"),
        ("b", "image", ""),
        ("a", "text", "3"),
    ]
    assert [p.name for p in path.parent.iterdir()] == ["x.csv"]


def test_columns_may_be_added_later(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    upsert(path, [{"model": "a", "tower": "image"}], ("model", "tower"), KEY)
    upsert(path, [{"model": "b", "tower": "image", "seconds": 1}], COLUMNS, KEY)
    assert [row["seconds"] for row in read_rows(path)] == ["", "1"]


def test_alternate_runs_all_ways_equally_often() -> None:
    calls: list[str] = []
    seconds = alternate({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=3, warmup=1)
    assert set(seconds) == {"a", "b"}
    assert calls.count("a") == calls.count("b") == 4
    assert calls[:4] == ["a", "b", "b", "a"]


def test_readme_tables_are_those_of_the_rows() -> None:
    assert tables.main(["--check"]) == 0, "run `python -m benchmarks.tables`"


def test_fill_replaces_between_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "TABLES", {"zoo": lambda: "new"})
    assert tables.fill("x <!-- table: zoo -->\nold\n<!-- end --> y") == "x <!-- table: zoo -->\nnew\n<!-- end --> y"


def test_the_zoo_has_all_architectures_of_open_clip() -> None:
    names = architectures()
    assert sorted(names) == sorted(open_clip.list_models())
    assert set(CLASSIC) <= set(names)
    assert names.index("ViT-S-32") < names.index("ViT-L-14") < names.index("ViT-bigG-14") < names.index("ViT-e-14")
    assert architectures("EVA01-g-*") == ["EVA01-g-14", "EVA01-g-14-plus"]


@pytest.mark.slow
def test_zoo_one_model(tmp_path: Path) -> None:
    """A whole zoo run of one small model, and that the second one finds nothing to do."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.zoo",
        "RN50",
        "--precision",
        "fp16",
        "--results",
        str(tmp_path / "zoo.csv"),
    ]
    ran = subprocess.run([*command, "--samples", "2"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    rows = read_rows(tmp_path / "zoo.csv")
    assert [(row["tower"], row["status"]) for row in rows] == [("image", "ok"), ("text", "ok")]
    assert float(rows[0]["min_cosine"]) > 0.999
    built = read_rows(tmp_path / "zoo_engines.csv")
    assert {(row["tower"], row["target"]) for row in built} == {(t, s) for t in ("image", "text") for s in zoo.TARGETS}
    assert all(row["status"] == "ok" for row in built)
    assert {row["fused_attention"] for row in built if row["tower"] == "text"} == {"12"}
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "RN50" not in again.stderr
