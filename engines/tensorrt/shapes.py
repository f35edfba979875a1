"""The runs of an engine for a batch: the split into parts, the profile of each part, and the sizes to which it is padded.

Sizes are rounded up to buckets, so that few shapes are run, because each shape needs its own CUDA graph, and TensorRT-RTX compiles
kernels for each.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from engines.manifest import Profile, Range

LENGTH_STEP = 8  # tokens between two length buckets: captions of 8 to 25 tokens are padded by a sixth on average
_FLOAT_BYTES = 4
_WORTH_PADDING = 1.5  # a rest is padded to the next profile's smallest batch if that is at most this factor larger


@dataclass(frozen=True)
class Run:
    """Rows `start` to `start + rows` of a batch, run as `batch` rows of `length` tokens.

    Attributes:
        start: index of the first row.
        rows: number of the batch's rows.
        profile: number of the engine's optimization profile.
        batch: number of rows that are run, `rows` or more.
        length: number of tokens that are run; None for towers without a dynamic length.
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
        dtype: dtype of the input.
        row: sizes of one input row; None stands for the number of tokens.
        dim: D, the number of values in an embedding.
        pad: id with which rows are filled up to the number of tokens that are run.
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
        """The number of bytes of the input in a run."""
        return math.prod(self.shape(run)) * self.dtype.itemsize

    def output_bytes(self, rows: int) -> int:
        """The number of bytes of `rows` embeddings."""
        return rows * self.dim * _FLOAT_BYTES


def batch_buckets(batch: Range) -> tuple[int, ...]:
    """Batch sizes with which a profile is run: powers of two, one and a half times those, and the profile's min, opt and max.

    Rounding up to the next one costs a third at worst.
    """
    sizes = {batch.min, batch.opt, batch.max}
    power = 1
    while power <= batch.max:
        sizes |= {power, power + power // 2}
        power *= 2
    return tuple(sorted(size for size in sizes if batch.min <= size <= batch.max))


def length_bucket(length: int, limits: Range) -> int:
    """The number of tokens to which texts of `length` are padded."""
    rounded = -(-length // LENGTH_STEP) * LENGTH_STEP
    return min(max(rounded, limits.min), limits.max)


def plan_runs(rows: int, length: int | None, profiles: Sequence[Profile], limit: int | None = None) -> list[Run]:
    """Split a batch into runs.

    Args:
        rows: number of rows in the batch, at least 1.
        length: number of tokens in a row; None where the engine's length is fixed.
        profiles: the engine's profiles, at least one.
        limit: largest number of rows in one run, where memory is short; it holds unless every profile needs more rows.

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
    if not fitting:  # a gap between profiles: pad up to the next profile, or fill the one below and split off the rest
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
    """The distance of a run from the profile's best size, as a factor."""
    return max(rows / batch.opt, batch.opt / rows)
