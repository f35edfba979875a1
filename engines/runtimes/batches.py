"""Runs of any number of rows in an engine that takes only some batch sizes, and the check of its embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.inputs.text_length import needed_lengths, plan_batches
from engines.manifest import BatchProfile, TextLength
from engines.runtimes.protocol import TowerRuntime

_GPU_ROWS = 128


def batch_size(profile: BatchProfile, usual: int) -> int:
    """The number of rows in one run: the profile's largest batch, or `usual` where it sets no limit (at least its smallest)."""
    return profile.max if profile.max is not None else max(profile.min, usual)


@dataclass(frozen=True)
class ThroughputPlan:
    """How a caller with many rows keeps an engine busy.

    Attributes:
        rows: number of rows of a call.
        in_flight: number of calls at a time, each in a thread of its own. On a GPU a second call copies its rows while the first
            one computes; on a CPU it would only compete for the cores.
    """

    rows: int
    in_flight: int


def throughput_plan(runtime: TowerRuntime, usual: int) -> ThroughputPlan:
    """The plan for a tower; `usual` rows a call where its profile sets no limit, on a GPU `_GPU_ROWS`."""
    if runtime.on_gpu:
        return ThroughputPlan(batch_size(runtime.batch, max(usual, _GPU_ROWS)), 2)
    return ThroughputPlan(batch_size(runtime.batch, usual), 1)


def run_in_batches(runtime: TowerRuntime, inputs: npt.NDArray[Any], usual: int) -> npt.NDArray[np.float32]:
    """Run any number of rows.

    A rest that is smaller than the profile's smallest batch is filled up with its last row, and the surplus is dropped.

    Args:
        runtime: the tower.
        inputs: (N, …) of the tower's dtype, N at least 1.
        usual: number of rows per run where the profile sets no limit.

    Returns:
        (N, D) float32.
    """
    if runtime.splits:
        return runtime.run(np.ascontiguousarray(inputs))
    size = batch_size(runtime.batch, usual)
    return np.concatenate([_run(runtime, inputs[i : i + size]) for i in range(0, len(inputs), size)])


def run_ids(
    runtime: TowerRuntime, ids: npt.NDArray[np.int32], length: TextLength, pad_id: int, usual: int
) -> npt.NDArray[np.float32]:
    """Run any number of captions, each cut to about as many ids as its tower needs.

    Args:
        runtime: the text tower.
        ids: (N, L) int32, N at least 1; rows that are shorter than ``length.max`` are filled up.
        length: the tower's rule.
        pad_id: the id that fills rows up.
        usual: number of rows per run where the engine's profile sets no limit.

    Returns:
        (N, D) float32, in the order of the rows.
    """
    if ids.shape[1] < length.max:
        ids = np.pad(ids, ((0, 0), (0, length.max - ids.shape[1])), constant_values=pad_id)
    lengths = needed_lengths(ids, length, pad_id)
    size = batch_size(runtime.batch, usual)
    result: npt.NDArray[np.float32] | None = None
    for rows in plan_batches(lengths, size):
        embeds = run_in_batches(runtime, ids[rows, : int(lengths[rows].max())], size)
        if result is None:
            result = np.empty((len(ids), embeds.shape[1]), dtype=np.float32)
        result[rows] = embeds
    assert result is not None
    return result


def _run(runtime: TowerRuntime, rows: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    missing = runtime.batch.min - len(rows)
    if missing <= 0:
        return runtime.run(np.ascontiguousarray(rows))
    filled = np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)])
    return runtime.run(filled)[: len(rows)]


def check_finite(embeds: npt.NDArray[np.float32], tower: str, precision: str) -> npt.NDArray[np.float32]:
    """The embeddings, if all of their values are finite.

    Raises:
        EngineError: an engine overflowed; the message names the input and a remedy.
    """
    finite = np.isfinite(embeds).all(axis=1)
    if finite.all():
        return embeds
    remedy = "run `python -m engines verify`" if precision == "fp32" else "serve an fp32 bundle of this model"
    raise EngineError(
        f"the {precision} {tower} tower gave NaN or infinity for {int((~finite).sum())} of {len(embeds)} inputs, "
        f"the first at index {int(finite.argmin())}: {remedy}"
    )
