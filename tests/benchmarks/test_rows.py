"""Rows: what is written is read again, by key, in CSV and parquet."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.records import rows
from benchmarks.records.figures import FIGURES, label, short_label
from benchmarks.records.machine import Machine, clock_mhz, stamp, this_machine, versions
from benchmarks.records.results import COMMITTED
from benchmarks.records.rows import Row

texts = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)
numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False).map(lambda x: float(f"{x:.6g}")))


@st.composite
def any_row(draw: st.DrawFn) -> Row:
    value = draw(numbers)
    return Row(
        what=draw(st.sampled_from(["throughput", "parity"])),
        model=draw(texts),
        figure=draw(st.sampled_from(sorted(FIGURES))),
        tower=draw(st.sampled_from(["image", "text", ""])),
        engine=draw(texts),
        batch=draw(st.integers(0, 4096)),
        shape=draw(texts),
        value=value,
        low=draw(numbers),
        high=draw(numbers),
        repeats=draw(st.integers(0, 99)),
        status="ok" if value is not None else "missing",
        note=draw(texts),
    )


@settings(deadline=None)
@given(st.lists(any_row(), min_size=1, max_size=6))
def test_rows_survive_csv_and_parquet(tmp_path_factory: pytest.TempPathFactory, found: list[Row]) -> None:
    folder = tmp_path_factory.mktemp("rows")
    rows.merge(folder, found)
    last = {row.key: row for row in found}
    assert {row.key: row for row in rows.read(folder)} == last
    rows.write_parquet(folder / "all.parquet", found)
    assert rows.read(folder / "all.parquet") == found


def test_a_newer_row_takes_the_place(tmp_path: Path) -> None:
    old = Row("throughput", "demo", "per_second", tower="image", engine="eager", value=1.0)
    rows.merge(tmp_path, [old, dataclasses.replace(old, engine="onnxruntime")])
    rows.merge(tmp_path, [dataclasses.replace(old, value=2.0)])
    assert [row.value for row in rows.read(tmp_path)] == [2.0, 1.0]
    assert [row.value for row in rows.select(rows.read(tmp_path), engine="eager")] == [2.0]


def test_a_case_that_fails_now_loses_its_other_figures(tmp_path: Path) -> None:
    rate = Row("throughput", "demo", "per_second", engine="eager", value=1.0)
    faster = dataclasses.replace(rate, figure="speedup")
    other = dataclasses.replace(rate, engine="openvino plain")
    rows.merge(tmp_path, [rate, faster, other])
    failed = dataclasses.replace(rate, value=None, status="failed", note="its process died")
    rows.merge(tmp_path, [failed], whole_cases=True)
    assert {row.key: row for row in rows.read(tmp_path)} == {row.key: row for row in (failed, other)}


def test_a_row_without_a_value_says_why() -> None:
    with pytest.raises(ValueError, match="must say why"):
        Row("throughput", "demo", "per_second")
    with pytest.raises(ValueError, match="is none of"):
        Row("throughput", "demo", "speed", value=1.0)


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("model,seconds\ndemo,1\n")
    with pytest.raises(ValueError, match="lacks the column what"):
        rows.read(tmp_path / "x.csv")
    row = Row("throughput", "demo", "per_second", value=1.0)
    rows.merge(tmp_path / "y", [row])
    file = tmp_path / "y" / "throughput.csv"
    file.write_text(file.read_text().replace(",1,", ",one,"))
    with pytest.raises(ValueError, match=r"throughput\.csv"):
        rows.read(file)


def test_the_machine_is_named() -> None:
    here = this_machine()
    assert here.device == "cpu"
    assert here.name.endswith("cores")
    assert Machine("cuda", "NVIDIA A100-SXM4-80GB").slug == "nvidia-a100-sxm4-80gb"
    assert clock_mhz("cpu") >= 0
    assert versions(["numpy", "no-such-package"]).startswith("numpy ")
    row = stamp([Row("throughput", "demo", "per_second", value=1.0)], here, threads=2)[0]
    assert (row.machine, row.threads) == (here.name, 2)
    assert row.date.endswith("Z")


def test_every_committed_figure_is_described() -> None:
    """By its name (which `Row` checks), unit and heading."""
    found = [row for file in COMMITTED.glob("*/**/*.csv") for row in rows.read(file)]
    assert len({row.figure for row in found}) > 20
    for row in found:
        assert row.unit in ("", FIGURES[row.figure].unit), row
    assert len({label(name) for name in FIGURES}) == len({short_label(name) for name in FIGURES}) == len(FIGURES)
