"""Which runs of an engine serve a batch: how it is split, which profile takes each part, and to what sizes it is padded.

Sizes are rounded up to buckets, so that few shapes are ever run: each needs a CUDA graph of its own, and TensorRT-RTX compiles
kernels for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.manifest import Profile, Range

LENGTH_STEP = 8  # tokens between two length buckets: a caption of 8 to 25 tokens is padded by a sixth on average
_FLOAT_BYTES = 4
_WORTH_PADDING = 1.5  # a rest is padded to the next profile's least batch if that costs less than this factor


@dataclass(frozen=True)
class Run:
    """Rows `start` to `start + rows` of a batch, run as `batch` rows of `length` tokens.

    Attributes:
        start: first row.
        rows: how many.
        profile: number of the engine's optimization profile.
        batch: rows that are run, `rows` or more.
        length: tokens that are run; None for towers without a dynamic length.
    """

    start: int
    rows: int
    profile: int
    batch: int
    length: int | None


@dataclass(frozen=True)
class TowerShape:
    """Input and output of a tower's engine.

    Attributes:
        input, output: names of the tensors.
        dtype: of the input.
        row: sizes of one input row; None stands for the number of tokens.
        dim: D, numbers in an embedding.
        pad: id that rows are filled up with to the number of tokens that is run.
    """

    input: str
    output: str
    dtype: np.dtype[Any]
    row: tuple[int | None, ...]
    dim: int
    pad: int = 0

    def shape(self, run: Run) -> tuple[int, ...]:
        """The input's shape in a run."""
        sizes = [run.length if size is None else size for size in self.row]
        assert None not in sizes
        return (run.batch, *(size for size in sizes if size is not None))

    def input_bytes(self, run: Run) -> int:
        """Bytes of the input in a run."""
        return math.prod(self.shape(run)) * self.dtype.itemsize

    def output_bytes(self, rows: int) -> int:
        """Bytes of that many embeddings."""
        return rows * self.dim * _FLOAT_BYTES


def batch_buckets(batch: Range) -> tuple[int, ...]:
    """Batch sizes that a profile is run with: powers of two and one and a half times those, its least, best and most.

    Rounding up costs a third at worst.
    """
    sizes = {batch.min, batch.opt, batch.max}
    power = 1
    while power <= batch.max:
        sizes |= {power, power + power // 2}
        power *= 2
    return tuple(sorted(size for size in sizes if batch.min <= size <= batch.max))


def length_bucket(length: int, limits: Range) -> int:
    """The number of tokens that texts of `length` are padded to."""
    rounded = -(-length // LENGTH_STEP) * LENGTH_STEP
    return min(max(rounded, limits.min), limits.max)


def plan_runs(rows: int, length: int | None, profiles: Sequence[Profile], limit: int | None = None) -> list[Run]:
    """Split a batch.

    Args:
        rows: of the batch, at least 1.
        length: tokens in a row; None where the engine's length is fixed.
        profiles: of the engine, at least one.
        limit: most rows in one run, where memory is short; it is kept unless every profile asks for more.

    Returns:
        Runs that together hold every row once, in order.
    """
    most = max(profile.batch.max for profile in profiles)
    if limit is not None:
        most = max(min(most, limit), min(profile.batch.min for profile in profiles))
    runs: list[Run] = []
    start = 0
    while start < rows:
        run = _next_run(start, min(rows - start, most), length, profiles, most)
        runs.append(run)
        start += run.rows
    return runs


def _next_run(start: int, rows: int, length: int | None, profiles: Sequence[Profile], most: int) -> Run:
    fitting = [i for i, profile in enumerate(profiles) if profile.batch.min <= rows <= profile.batch.max]
    if not fitting:  # in a gap: pad up to the next profile, or fill the one below and come again
        above = [i for i, p in enumerate(profiles) if rows < p.batch.min]
        below = [i for i, p in enumerate(profiles) if p.batch.max < rows]
        best_above = min(above, key=lambda i: profiles[i].batch.min, default=None)
        if best_above is not None and (not below or profiles[best_above].batch.min <= _WORTH_PADDING * rows):
            fitting = [best_above]
        else:
            largest = max(below, key=lambda i: profiles[i].batch.max)
            fitting = [largest]
            rows = profiles[largest].batch.max
    index = min(fitting, key=lambda i: _distance(rows, profiles[i].batch))
    profile = profiles[index]
    allowed = [size for size in batch_buckets(profile.batch) if size >= rows]
    within = [size for size in allowed if size <= most]
    bucket = (within or [max(rows, profile.batch.min)])[0]
    tokens = None if length is None or profile.length is None else length_bucket(length, profile.length)
    return Run(start, rows, index, bucket, tokens)


def _distance(rows: int, batch: Range) -> float:
    """How far from its best size a profile would run, as a factor."""
    return max(rows / batch.opt, batch.opt / rows)
