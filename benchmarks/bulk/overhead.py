"""The time of a bulk job over the time of its parts: the engine alone, and decoding and engine in memory."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import engines
from benchmarks.bulk.inputs import TARS, BulkInputs
from benchmarks.records.estimates import Estimate, estimate
from engines.bulk.description import JobDescription, agree
from engines.bulk.job import Summary, run_job
from engines.bulk.maker import MakeOptions, Outcome
from engines.embedder import Embedder
from engines.errors import ImageError
from engines.files.output_folder import output_folder
from engines.shards.input_shards import Sources

_BATCH = 32


@dataclass(frozen=True)
class Overhead:
    """The time of a job over that of a part of it, round by round.

    Attributes:
        shape: what is compared.
        value: the ratio.
        note: a remark.
    """

    shape: str
    value: Estimate
    note: str


def measure_overhead(bundle: Path, inputs: BulkInputs, place: Path, rounds: int) -> list[Overhead]:
    """Measure in turns, in one process.

    Args:
        bundle: the bundle.
        inputs: the pictures; the job reads the tars.
        place: a folder for the job's output.
        rounds: number of rounds.

    Returns:
        The job over the engine alone (pixels in memory), and over decoding and engine (encoded pictures in memory, decoded by
        threads ahead of the engine, as the job does it).
    """
    data = [(inputs.photos / f"{inputs.key(i)}.jpg").read_bytes() for i in range(inputs.count)]
    with engines.load(bundle, towers=("image",)) as clip:
        pixels = [
            item
            for _, batch in clip.preprocess_ahead(data, _BATCH)
            for item in batch
            if not isinstance(item, ImageError)
        ]
        runs: dict[str, Callable[[], None]] = {
            "engine alone": lambda: _engine_alone(clip, pixels),
            "decoding and engine": lambda: _decoding_and_engine(clip, data),
            "job": lambda: _job(clip, bundle, inputs, place),
        }
        taken: dict[str, list[_Times]] = {name: [] for name in runs}
        for round_ in range(rounds + 1):
            for name, run in runs.items():
                times = _timed(run)
                if round_:  # the first warms up
                    taken[name].append(times)
        rate = inputs.count / float(np.median([times.wall for times in taken["job"]]))
        note = f"{inputs.count} pictures in {TARS} tars, decoded by {clip.decoder}, {rate:.1f} pictures/s"
    found = []
    for part in ("engine alone", "decoding and engine"):
        pairs = list(zip(taken["job"], taken[part], strict=True))
        found.append(Overhead(f"job over {part}", estimate([job.wall / other.wall for job, other in pairs]), note))
        processor = estimate([job.processor / other.processor for job, other in pairs])
        found.append(Overhead(f"job over {part}, processor time", processor, note))
    return found


@dataclass(frozen=True)
class _Times:
    wall: float
    processor: float


def _timed(run: Callable[[], None]) -> _Times:
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return _Times(time.perf_counter() - wall, time.process_time() - processor)


def _engine_alone(clip: Embedder, pixels: list[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]) -> None:
    for start in range(0, len(pixels), _BATCH):
        clip.encode_image(np.stack(pixels[start : start + _BATCH]))


def _decoding_and_engine(clip: Embedder, data: list[bytes]) -> None:
    for _, batch in clip.preprocess_ahead(data, _BATCH):
        good = [item for item in batch if not isinstance(item, ImageError)]
        if good:
            clip.encode_image(np.stack(good))


def _job(clip: Embedder, bundle: Path, inputs: BulkInputs, place: Path) -> None:
    shutil.rmtree(place, ignore_errors=True)
    folder = output_folder(str(place))
    model = clip.manifest.model
    description = JobDescription(str(bundle), "", model.name, ("image",), "parquet", "float16", model.embed_dim)
    summary = run_job(
        clip, Sources((inputs.tars,)), (0, 1), folder, agree(folder, description), MakeOptions(), _Silent()
    )
    assert summary.rows == inputs.count


class _Silent:
    def begin(self, summary: Summary) -> None:
        """See `Reporter`."""

    def shard(self, outcome: Outcome) -> None:
        """See `Reporter`."""

    def rows(self, count: int) -> None:
        """See `Reporter`."""

    def wait(self, busy: int) -> None:
        """See `Reporter`."""

    def close(self) -> None:
        """See `Reporter`."""
