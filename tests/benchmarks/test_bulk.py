"""The same pictures by every way into and out of a bulk job, in small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.bulk.command import main
from benchmarks.bulk.inputs import TARS, write_inputs
from benchmarks.bulk.ways import UnequalError, Way, WayResult, compare
from benchmarks.records import rows as rowfiles


@pytest.mark.long
def test_all_ways_are_equal(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(demo_bundle), "--ways", "40", "--folder", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "all equal to the bit" in out
    assert out.count("40 rows") >= 7


def test_overhead(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--overhead", "24", "--rounds", "2", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main([str(demo_bundle), *arguments]) == 0
    assert "job over engine alone" in capsys.readouterr().out
    rows = list(rowfiles.read(tmp_path / "results" / "bulk.csv"))
    assert {row.shape for row in rows} == {
        f"job over {part}{time}"
        for part in ("engine alone", "decoding and engine")
        for time in ("", ", processor time")
    }


def test_inputs_are_the_same_three_times(tmp_path: Path) -> None:
    import tarfile

    import pyarrow.parquet as parquet

    inputs = write_inputs(tmp_path, 20, side=32)
    table = {row["key"]: row["jpg"] for row in parquet.read_table(inputs.parquet).to_pylist()}
    in_tars = {}
    for number in range(TARS):
        with tarfile.open(tmp_path / f"{number:05d}.tar") as tar:
            for member in tar:
                if member.name.endswith(".jpg"):
                    file = tar.extractfile(member)
                    assert file is not None
                    in_tars[member.name[:-4]] = file.read()
    files = {file.stem: file.read_bytes() for file in inputs.photos.iterdir()}
    assert table == in_tars == files
    assert len(files) == 20


@pytest.mark.parametrize("change", ["value", "missing", "error"])
def test_a_difference_is_an_error(change: str) -> None:
    rows = {"a": np.zeros(4, np.float16), "b": np.ones(4, np.float16)}
    other = {key: row.copy() for key, row in rows.items()}
    errors = frozenset[str]()
    if change == "value":
        other["b"][3] += np.float16(0.001)
    elif change == "missing":
        del other["b"]
    else:
        errors = frozenset({"c"})
    one = WayResult(Way("one", ()), rows, frozenset(), 1.0)
    compare(one, one)
    with pytest.raises(UnequalError, match="one and two"):
        compare(one, WayResult(Way("two", ()), other, errors, 1.0))


def test_search(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--search", "12000", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    assert main([str(demo_bundle), *arguments]) == 0
    rows = list(rowfiles.read(tmp_path / "results" / "bulk.csv"))
    assert len(rows) == 6
    assert {row.figure for row in rows} == {"load", "p50"}
