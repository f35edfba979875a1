"""Which implementation of an op runs where: a measured table, ``choices.csv``, and native PyTorch wherever it has no row.

A row is one op at one shape on one GPU architecture: milliseconds of our kernel and of PyTorch's own, the machine and the commit
that measured them. A shape is written "256x257x16x64". Its first number counts rows or batch and may vary at run time; the
rest are the shape class. What the numbers are, op by op:

    attention         N, L, H, D        packed_attention  T, longest sequence, H, D
    linear_gelu       M, K, C           bias_gelu, add_layer_norm, l2_normalize  M, C
    normalize_image   N, H, W, patch    linear_gelu_tma   M, K, C; native is the kernel without TMA
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch

TABLE = Path(__file__).with_name("choices.csv")

Implementation = Literal["triton", "native"]


@dataclass(frozen=True)
class Row:
    """One measurement: `arch` is "sm90", `dtype` "float16", `shape` "256x257x16x64"; times are medians in milliseconds."""

    arch: str
    op: str
    dtype: str
    shape: str
    triton_ms: float
    native_ms: float
    machine: str
    commit: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What makes two rows measurements of the same thing."""
        return (self.arch, self.op, self.dtype, self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers of the shape."""
        return tuple(int(size) for size in self.shape.split("x"))


def shape_text(shape: Sequence[int]) -> str:
    """A shape as the table writes it: (256, 257, 16, 64) as "256x257x16x64"."""
    return "x".join(str(size) for size in shape)


def choose(op: str, arch: str, dtype: torch.dtype | str, shape: Sequence[int], table: Path = TABLE) -> Implementation:
    """The implementation that measured faster, "native" where no row covers the shape.

    A whole shape is covered by rows of its op, architecture, dtype and class that were measured with as many rows or fewer,
    and with as many or more: the kernel must have won at the nearest of both, and an exact row decides alone. A shape that is
    only the last numbers, all that is known before a model runs (attention's H and D), is covered by every row that ends with
    them: the kernel must be faster in their geometric mean. A shape of no number is covered by every row of the op.
    """
    name = str(dtype).removeprefix("torch.")
    rows = [row for row in read(table) if (row.op, row.arch, row.dtype) == (op, arch, name)]
    wanted = tuple(shape)
    if any(len(wanted) < len(row.sizes) for row in rows):
        ending = [row for row in rows if row.sizes[len(row.sizes) - len(wanted) :] == wanted]
        gain = sum(math.log(row.native_ms / row.triton_ms) for row in ending)
        return "triton" if gain > 0 else "native"
    rows = [row for row in rows if row.sizes[1:] == wanted[1:]]
    below = max((row for row in rows if row.sizes[0] <= wanted[0]), key=lambda row: row.sizes[0], default=None)
    above = min((row for row in rows if row.sizes[0] >= wanted[0]), key=lambda row: row.sizes[0], default=None)
    if below is None or above is None:
        return "native"
    return "triton" if all(row.triton_ms < row.native_ms for row in (below, above)) else "native"


def read(table: Path = TABLE) -> tuple[Row, ...]:
    """The rows of a table. Raises ValueError if its columns are not those of `Row`."""
    return _read(table, table.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _read(table: Path, _changed: int) -> tuple[Row, ...]:
    with table.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        columns = [field.name for field in fields(Row)]
        if lines.fieldnames != columns:
            raise ValueError(
                f"{table} has the columns {lines.fieldnames}, expected {columns}; merge rows with kernels.choices"
            )
        return tuple(_row(line) for line in lines)


def _row(line: dict[str, Any]) -> Row:
    return Row(**{**line, "triton_ms": float(line["triton_ms"]), "native_ms": float(line["native_ms"])})


def merge(measured: Iterable[Row], table: Path = TABLE) -> int:
    """Write measured rows into the table, each in place of an older one of the same thing; return how many rows it then has.

    Raises ValueError for a row whose times are not positive or whose shape is not numbers: such a row would decide silently.
    """
    rows = {row.key: row for row in read(table)}
    for row in measured:
        if not (row.triton_ms > 0 and row.native_ms > 0):
            raise ValueError(f"{'/'.join(row.key)}: {row.triton_ms} and {row.native_ms} ms are not measured times")
        if shape_text(row.sizes) != row.shape:
            raise ValueError(f"{'/'.join(row.key)}: the shape is not written as in 256x257x16x64")
        rows[row.key] = row
    ordered = sorted(rows.values(), key=lambda row: (row.arch, row.op, row.dtype, row.sizes[1:], row.sizes[0]))
    draft = table.with_name(f"{table.name}.{os.getpid()}.part")
    with draft.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        lines.writeheader()
        lines.writerows(asdict(row) for row in ordered)
    draft.replace(table)
    return len(rows)
