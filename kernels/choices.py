"""The choice of an op's implementation: by a table of measurements, ``choices.csv``, and native PyTorch where it has no row.

A row is one implementation of one op at one shape on one GPU architecture: device time in milliseconds, the machine and the commit
that measured it. All implementations of a shape were timed in one run; "native" is plain PyTorch compiled by PyTorch's compiler,
as in a package. A shape is written "256x257x16x64". Its first number counts rows or batch, and may vary at run time.
"""

from __future__ import annotations

import csv
import math
import os
from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

TABLE = Path(__file__).with_name("choices.csv")
NATIVE = "native"
# Op -> the numbers of its shapes. Implementations beside native: of attention those of `kernels.attention_variants` (of packed
# captions all but cudnn, and native attends to padded ones); of an MLP bias_gelu, linear_gelu, linear_gelu tma and linear_gelu
# cublaslt; of patches normalize_image; of the others triton.
SHAPES = {
    **dict.fromkeys(("attention", "causal_attention", "rotary_attention", "masked_attention"), ("N", "L", "H", "D")),
    "packed_attention": ("T", "longest", "H", "D"),
    **dict.fromkeys(("mlp", "quick_mlp"), ("M", "K", "C")),
    **dict.fromkeys(("add_layer_norm", "l2_normalize", "bias_gelu"), ("M", "C")),
    "patches": ("N", "H", "W", "patch", "C"),
}
# Another implementation must take at most this share of native's time, because the compiler cannot fuse it with its neighbours.
_MARGIN = 0.98
# A measurement counts for other numbers of rows up to this factor.
_FARTHEST = 8


@dataclass(frozen=True)
class Row:
    """One measurement.

    Attributes:
        arch: GPU architecture, such as ``sm90``.
        op: the op's name, a key of `SHAPES`.
        dtype: dtype of the operands, such as ``float16``.
        shape: the op's numbers, such as ``256x257x16x64``.
        implementation: ``native``, or an implementation that is compared with it.
        ms: median device time in milliseconds.
        machine, commit: the machine and the code's commit of the measurement.
    """

    arch: str
    op: str
    dtype: str
    shape: str
    implementation: str
    ms: float
    machine: str
    commit: str

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The fields that are equal in measurements of the same op at the same shape, also by different implementations."""
        return (self.arch, self.op, self.dtype, self.shape)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The numbers in the shape's text."""
        return tuple(int(size) for size in self.shape.split("x"))


def shape_text(shape: Sequence[int]) -> str:
    """A shape as text of the table: (256, 257, 16, 64) as "256x257x16x64"."""
    return "x".join(str(size) for size in shape)


def choose(
    op: str,
    arch: str,
    dtype: torch.dtype | str,
    shape: Sequence[int | None],
    allowed: Collection[str],
    table: Path = TABLE,
) -> str:
    """The implementation with the shortest measured time among the allowed ones.

    Args:
        op: the op's name, a key of `SHAPES`.
        arch: GPU architecture, such as ``sm90``.
        dtype: dtype of the operands.
        shape: the numbers of the op; None for a number that is not known before the model runs.
        allowed: the implementations that can be taken here, besides the native one.
        table: the file of rows.

    Returns:
        The implementation's name; "native" where no row covers the shape, or where no allowed implementation was faster by 2 %.

        A shape is covered by rows whose numbers after the first are equal. For the first number, the nearest measured numbers below
        and above count, up to a factor of 8 away; an exactly equal one counts alone, and all count where the number is not known.
        Over several measured shapes the geometric mean decides, among the implementations that were measured at each of them.
    """
    name = str(dtype).removeprefix("torch.")
    rows = [row for row in read(table) if (row.op, row.arch, row.dtype) == (op, arch, name)]
    rows = [row for row in rows if len(row.sizes) == len(shape) and _agree(row.sizes[1:], shape[1:])]
    covering = _covering({row.sizes[0] for row in rows}, shape[0])
    times: dict[str, dict[str, float]] = {}
    for row in rows:
        if row.sizes[0] in covering:
            times.setdefault(row.shape, {})[row.implementation] = row.ms
    if not times:
        return NATIVE
    measured = set.intersection(*(set(by_name) for by_name in times.values()))
    if NATIVE not in measured:
        return NATIVE
    means = {
        implementation: sum(math.log(by_name[implementation]) for by_name in times.values())
        for implementation in sorted(measured & {*allowed, NATIVE})
    }
    best = min(means, key=lambda implementation: means[implementation])
    return best if means[best] < means[NATIVE] + len(times) * math.log(_MARGIN) else NATIVE


def _agree(sizes: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return all(want is None or want == size for size, want in zip(sizes, wanted, strict=True))


def _covering(measured: Collection[int], wanted: int | None) -> set[int]:
    """The measured numbers of rows that count for the wanted one."""
    if wanted is None or wanted in measured:
        return set(measured) if wanted is None else {wanted}
    below = max((rows for rows in measured if rows < wanted), default=0)
    above = min((rows for rows in measured if rows > wanted), default=0)
    return {rows for rows in (below, above) if rows and max(rows, wanted) <= _FARTHEST * min(rows, wanted)}


def unmeasured(arch: str, table: Path = TABLE) -> str | None:
    """A sentence about the lack of measurements on an architecture such as ``sm90``; None where the table has some."""
    if any(row.arch == arch for row in read(table)):
        return None
    return (
        f"no kernel was measured on {arch}, so kernels=auto takes PyTorch's own everywhere: "
        "`python -m benchmarks kernel-ops --choices`, in a clone of the repository on such a GPU, measures them"
    )


def read(table: Path = TABLE) -> tuple[Row, ...]:
    """The rows of a table.

    Raises:
        ValueError: the table's columns are not those of `Row`.
    """
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
    return Row(**{**line, "ms": float(line["ms"])})


def merge(measured: Iterable[Row], table: Path = TABLE) -> int:
    """Write measured rows into the table, and return the number of rows that it then has.

    All old rows of a shape that was measured anew are removed, also those of other implementations, because times of two runs are
    not compared.

    Raises:
        ValueError: a row's time is not positive or its shape is not numbers, because such a row would silently decide a choice.
    """
    new = list(measured)
    for row in new:
        if not 0 < row.ms < math.inf:
            raise ValueError(f"{'/'.join(row.key)}: {row.implementation} has {row.ms} ms, which is no measured time")
        if shape_text(row.sizes) != row.shape:
            raise ValueError(f"{'/'.join(row.key)}: the shape is not written as in 256x257x16x64")
    replaced = {row.key for row in new}
    rows = {(row.key, row.implementation): row for row in (*read(table), *new) if row in new or row.key not in replaced}
    ordered = sorted(
        rows.values(),
        key=lambda row: (row.arch, row.op, row.dtype, row.sizes[1:], row.sizes[0], row.ms, row.implementation),
    )
    draft = table.with_name(f"{table.name}.{os.getpid()}.part")
    with draft.open("w", newline="", encoding="utf-8") as file:
        lines = csv.DictWriter(file, [field.name for field in fields(Row)], lineterminator="\n")
        lines.writeheader()
        lines.writerows(asdict(row) for row in ordered)
    draft.replace(table)
    return len(rows)
