"""The table of measured choices: what covers a shape, and what happens to its rows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from kernels.choices import TABLE, Row, choose, merge, read, shape_text

ROW = Row("sm90", "attention", "float16", "32x257x16x64", 0.5, 0.8, "H200", "abc")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "choices.csv"
    path.write_text(",".join(("arch", "op", "dtype", "shape", "triton_ms", "native_ms", "machine", "commit")) + "\n")
    return path


def test_the_table_in_the_repository_is_readable() -> None:
    for row in read(TABLE):
        assert shape_text(row.sizes) == row.shape
        assert row.machine
        assert row.commit


def test_nothing_measured_is_native(table: Path) -> None:
    assert choose("attention", "sm90", "float16", (32, 257, 16, 64), table) == "native"


def test_an_exact_row_decides_alone(table: Path) -> None:
    merge([ROW, replace(ROW, shape="32x50x12x64", triton_ms=0.9)], table)
    assert choose("attention", "sm90", "float16", (32, 257, 16, 64), table) == "triton"
    assert choose("attention", "sm90", "float16", (32, 50, 12, 64), table) == "native"


@pytest.mark.parametrize(
    "other", [{"arch": "sm80"}, {"op": "bias_gelu"}, {"dtype": "bfloat16"}, {"shape": "32x257x16x80"}]
)
def test_another_thing_covers_nothing(table: Path, other: dict[str, str]) -> None:
    merge([replace(ROW, **other)], table)
    assert choose("attention", "sm90", "float16", (32, 257, 16, 64), table) == "native"


@pytest.mark.parametrize(
    ("batch", "at_32", "at_256", "chosen"),
    [
        (100, 0.5, 0.5, "triton"),
        (100, 0.5, 0.9, "native"),
        (100, 0.9, 0.5, "native"),
        (32, 0.5, 0.9, "triton"),
        (16, 0.5, 0.5, "native"),
        (512, 0.5, 0.5, "native"),
        (100, 0.8, 0.8, "native"),
    ],
)
def test_between_two_batches_both_must_have_won(
    table: Path, batch: int, at_32: float, at_256: float, chosen: str
) -> None:
    merge([replace(ROW, triton_ms=at_32), replace(ROW, shape="256x257x16x64", triton_ms=at_256)], table)
    assert choose("attention", "sm90", "float16", (batch, 257, 16, 64), table) == chosen


@pytest.mark.parametrize(("at_1", "chosen"), [(0.5, "triton"), (1.2, "triton"), (1.4, "native")])
def test_the_end_of_a_shape_is_decided_by_all_its_rows(table: Path, at_1: float, chosen: str) -> None:
    merge(
        [ROW, replace(ROW, shape="1x77x16x64", triton_ms=at_1), replace(ROW, shape="1x77x8x64", triton_ms=9.0)], table
    )
    assert choose("attention", "sm90", torch.float16, (16, 64), table) == chosen
    assert choose("attention", "sm90", torch.bfloat16, (16, 64), table) == "native"
    assert choose("attention", "sm90", torch.float16, (32, 64), table) == "native"
    assert choose("attention", "sm90", torch.float16, (), table) == "native"  # 8 heads lose by far more
    assert choose("l2_normalize", "sm90", torch.float16, (), table) == "native"
    merge([replace(ROW, op="l2_normalize", shape="256x768")], table)
    assert choose("l2_normalize", "sm90", torch.float16, (), table) == "triton"


def test_a_new_measurement_replaces_the_old_one_and_rows_stay_sorted(table: Path) -> None:
    assert merge([replace(ROW, shape="256x257x16x64"), ROW], table) == 2
    newer = replace(ROW, triton_ms=0.9, commit="def")
    assert merge([newer], table) == 2
    assert read(table) == (newer, replace(ROW, shape="256x257x16x64"))


@pytest.mark.parametrize("wrong", [{"triton_ms": 0.0}, {"native_ms": float("nan")}, {"shape": "032x257x16x64"}])
def test_a_row_that_measured_nothing_is_refused(table: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="attention"):
        merge([replace(ROW, **wrong)], table)  # type: ignore[arg-type]
    assert read(table) == ()


def test_a_table_with_other_columns_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "choices.csv"
    path.write_text("arch,op\nsm90,attention\n")
    with pytest.raises(ValueError, match="columns"):
        read(path)
