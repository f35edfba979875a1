"""A tower's operations and the machine's ceilings, from rows that were counted or measured before."""

from __future__ import annotations

import functools
from pathlib import Path

from benchmarks.records import rows
from benchmarks.records.csv_file import read_rows
from benchmarks.records.results import COMMITTED
from benchmarks.records.table_files import ROOFLINE


@functools.cache
def flops_of(model: str, tower: str) -> float | None:
    """Operations for one image, or one text of full length, as `benchmarks.roofline` counted them; None if it has not."""
    for row in read_rows(COMMITTED / ROOFLINE.name):
        if (row["model"], row["tower"]) == (model, tower):
            return float(row["gflops"]) * 1e9
    return None


def ceiling_tflops(results: Path, precision: str) -> float | None:
    """The machine's measured matrix products in that precision, from its ``ceiling.csv``; None if they were not measured."""
    products = rows.select(rows.read(results / "ceiling.csv"), model="matmul", precision=precision, figure="tflops")
    return max((row.value for row in products if row.value is not None), default=None)


def ceiling_gbytes(results: Path) -> float | None:
    """The machine's measured copy, GB/s read plus written; None if it was not measured."""
    copies = rows.select(rows.read(results / "ceiling.csv"), model="copy", figure="gbytes_per_second")
    return max((row.value for row in copies if row.value is not None), default=None)
