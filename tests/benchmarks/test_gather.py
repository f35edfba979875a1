"""Rows that come back from another machine find their place."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from benchmarks import gather
from benchmarks.harness.process import OUT_OF_TIME
from benchmarks.records import rows
from benchmarks.records.rows import Row

ROW = Row(
    "package",
    "ViT-L-14",
    "per_second",
    engine="aotinductor triton",
    batch=256,
    value=3000.0,
    machine="NVIDIA H100 80GB HBM3",
)


def test_a_later_folder_takes_the_place_of_an_earlier_one(tmp_path: Path) -> None:
    other = dataclasses.replace(ROW, batch=32, value=2000.0)
    rows.merge(tmp_path / "1", [ROW, other])
    late = dataclasses.replace(ROW, value=None, status="missing", note=OUT_OF_TIME)
    newer = dataclasses.replace(other, value=2100.0)
    foreign = dataclasses.replace(ROW, machine="NVIDIA H200")
    rows.merge(tmp_path / "2", [late, newer])
    rows.merge(tmp_path / "3", [foreign])
    results = tmp_path / "results"
    folders = [str(tmp_path / name) for name in "123"]
    assert gather.main([*folders, "--results", str(results)]) == 0
    found = {row.batch: row.value for row in rows.read(results / "nvidia-h100-80gb-hbm3")}
    assert found == {256: 3000.0, 32: 2100.0}
    assert [row.value for row in rows.read(results / "nvidia-h200")] == [3000.0]


def test_wrong_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gather.main([str(tmp_path / "nothing")]) == 1
    assert "is no folder: name those that were given to --out" in capsys.readouterr().err
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    assert gather.main([str(tmp_path), "--results", str(tmp_path / "results")]) == 1
    assert "is no file of rows" in capsys.readouterr().err
