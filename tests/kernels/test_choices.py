"""The table of measured choices: what covers a shape, and what happens to its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.choices import TABLE, Row, choose, merge, read, shape_text

ROW = Row("sm90", "attention", "float16", "32x257x16x64", "triton", 0.5, "H200", "abc")
ALL = ("triton", "flash", "loop-64x64-w4-s2")
SHAPE = (32, 257, 16, 64)


def rows(shape: str = ROW.shape, row: Row = ROW, **times: float) -> list[Row]:
    """One row for each implementation: ``rows(native=0.8, triton=0.5)``."""
    return [replace(row, shape=shape, implementation=name, ms=ms) for name, ms in times.items()]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "choices.csv"
    path.write_text(TABLE.read_text(encoding="utf-8").splitlines()[0] + "\n")
    return path


def test_the_table_in_the_repository_is_readable() -> None:
    for row in read(TABLE):
        assert shape_text(row.sizes) == row.shape
        assert row.machine
        assert row.commit


def test_nothing_measured_is_native(table: Path) -> None:
    assert choose("attention", "sm90", "float16", SHAPE, ALL, table) == "native"
    merge(rows(triton=0.5, flash=0.4), table)  # what would run in its place was not measured
    assert choose("attention", "sm90", "float16", SHAPE, ALL, table) == "native"


def test_the_fastest_that_is_allowed(table: Path) -> None:
    merge(rows(native=0.8, triton=0.5, flash=0.4, cudnn=0.3), table)
    assert choose("attention", "sm90", torch.float16, SHAPE, (*ALL, "cudnn"), table) == "cudnn"
    assert choose("attention", "sm90", torch.float16, SHAPE, ALL, table) == "flash"
    assert choose("attention", "sm90", torch.float16, SHAPE, ("triton",), table) == "triton"
    assert choose("attention", "sm90", torch.float16, SHAPE, (), table) == "native"
    merge(rows(native=0.4, triton=0.5, flash=0.395), table)  # faster, and by less than 2 %
    assert choose("attention", "sm90", torch.float16, SHAPE, ALL, table) == "native"


@pytest.mark.parametrize(
    "other", [{"arch": "sm80"}, {"op": "causal_attention"}, {"dtype": "bfloat16"}, {"shape": "32x257x16x80"}]
)
def test_another_thing_covers_nothing(table: Path, other: dict[str, str]) -> None:
    merge(rows(row=replace(ROW, **other), **{"native": 0.8, "triton": 0.5}, shape=other.get("shape", ROW.shape)), table)  # type: ignore[arg-type]
    assert choose("attention", "sm90", "float16", SHAPE, ALL, table) == "native"


@pytest.mark.parametrize(
    ("batch", "at_32", "at_256", "chosen"),
    [
        (100, 0.5, 0.5, "triton"),
        (100, 0.5, 1.0, "triton"),  # the geometric mean of 0.5 and 1.0 is less than 0.8
        (100, 0.9, 0.9, "native"),
        (32, 0.5, 9.0, "triton"),  # an exact row decides alone
        (256, 0.5, 9.0, "native"),
        (16, 0.5, 9.0, "triton"),
        (4, 0.5, 9.0, "triton"),
        (3, 0.5, 0.5, "native"),  # more than 8 times away
        (2048, 9.0, 0.5, "triton"),
        (2049, 0.5, 0.5, "native"),
        (None, 0.5, 0.5, "triton"),
        (None, 0.5, 9.0, "native"),
    ],
)
def test_batches(table: Path, batch: int | None, at_32: float, at_256: float, chosen: str) -> None:
    merge([*rows(native=0.8, triton=at_32), *rows("256x257x16x64", native=0.8, triton=at_256)], table)
    assert choose("attention", "sm90", "float16", (batch, 257, 16, 64), ALL, table) == chosen


def test_numbers_that_are_not_known_agree_with_all(table: Path) -> None:
    merge([*rows(native=0.8, triton=0.5), *rows("32x77x16x64", native=0.8, triton=0.9, flash=0.1)], table)
    assert choose("attention", "sm90", "float16", (32, None, 16, 64), ALL, table) == "triton"  # flash is not in both
    assert choose("attention", "sm90", "float16", (32, 77, 16, 64), ALL, table) == "flash"
    assert choose("attention", "sm90", "float16", (None, None, 12, 64), ALL, table) == "native"


def test_a_shape_is_measured_anew_as_a_whole(table: Path) -> None:
    other = rows("256x257x16x64", native=0.8, triton=0.5)
    assert merge([*rows(native=0.8, triton=0.5, flash=0.1), *other], table) == 5
    newer = [replace(row, commit="def") for row in rows(native=0.7, triton=0.9)]
    assert merge(newer, table) == 4
    found = read(table)
    assert [row for row in found if row.shape == ROW.shape] == newer  # the fastest first; flash of another run is gone
    assert {row.implementation for row in found if row.shape != ROW.shape} == {"native", "triton"}


@pytest.mark.parametrize("wrong", [{"ms": 0.0}, {"ms": float("nan")}, {"ms": float("inf")}, {"shape": "032x257x16x64"}])
def test_a_row_that_measured_nothing_is_refused(table: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="attention"):
        merge([replace(ROW, **wrong)], table)  # type: ignore[arg-type]
    assert read(table) == ()


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.csv"
    path.write_text("arch,op\nsm90,attention\n")
    with pytest.raises(ValueError, match="columns"):
        read(path)
