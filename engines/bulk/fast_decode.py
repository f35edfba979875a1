"""The gate of ``--fast-decode``: how far embeddings of JPEG files move when these are decoded at a reduced scale."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from engines.bulk.description import JobDescription, read_description
from engines.embedder import Embedder
from engines.errors import EngineError, ImageError, InputError
from engines.files.output_folder import Folder
from engines.inputs.decode import Decoder
from engines.process.terminal import say
from engines.shards.input_shards import Sources
from engines.shards.read_shard import read_samples
from engines.shards.samples import Columns, ReaderNotes, Sample

# Limits of the cosine between both embeddings of a picture: its mean, and the least.
LEAST_MEAN = 0.999
LEAST_COSINE = 0.99
PICTURES = 64
SAMPLES = 6400  # the first of a job, among which JPEG pictures are looked for: a job may have none

_BATCH = 32
_JPEG = b"\xff\xd8\xff"


@dataclass(frozen=True)
class FastDecodeFigures:
    """Cosines of the embeddings with and without fast decoding.

    Attributes:
        pictures: number of JPEG pictures that were compared; with 0 the cosines are 1.
        mean, least: their mean and the smallest.
    """

    pictures: int
    mean: float
    least: float

    @property
    def passed(self) -> bool:
        """Whether the figures are within the limits."""
        return self.mean >= LEAST_MEAN and self.least >= LEAST_COSINE

    def __str__(self) -> str:
        if not self.pictures:
            return "fast decoding: no JPEG picture to compare"
        figures = f"{self.mean:.5f} in the mean, {self.least:.5f} at least ({self.pictures} pictures)"
        return f"fast decoding: cosine to exact decoding {figures}"


class FastDecodeError(EngineError):
    """Fast decoding moves the embeddings of this job's pictures too far."""


def check_fast_decode(
    clip: Embedder, sources: Sources, folder: Folder, description: JobDescription, columns: Columns
) -> JobDescription:
    """The description of a job with the figures of its gate; other jobs than those with fast decoding pass as they are.

    A job that goes on, or joins others, has the figures of the one that began.

    Args:
        clip: the bundle, loaded as the job says.
        sources: the job's inputs.
        folder: the job's output folder.
        description: the job's description.
        columns: names of columns in parquet files.

    Raises:
        FastDecodeError: the figures are outside the limits.
    """
    if not description.fast_decode or read_description(folder) is not None:
        return description
    figures = measure_fast_decode(clip, _first_samples(sources, columns, description.towers), description.max_pixels)
    say(str(figures), sys.stderr)
    if not figures.passed:
        raise FastDecodeError(
            f"{figures}, and at least {LEAST_MEAN} in the mean and {LEAST_COSINE} for each are wanted: leave --fast-decode out"
        )
    return replace(description, fast_decode_cosine=figures.least if figures.pictures else None)


def _first_samples(sources: Sources, columns: Columns, towers: tuple[str, ...]) -> Iterator[Sample]:
    for shard in sources.shards():
        with contextlib.suppress(InputError):  # the job itself reports a shard that cannot be read
            yield from read_samples(shard, ReaderNotes(), columns, towers)


def measure_fast_decode(clip: Embedder, samples: Iterable[Sample], max_pixels: int | None = None) -> FastDecodeFigures:
    """Embed the first JPEG pictures of some samples twice, decoded fast and exactly.

    Args:
        clip: the bundle, loaded with ``fast_decode=True``.
        samples: the job's first samples; they are drawn until there are enough pictures, 6,400 at most.
        max_pixels: the job's limit of an image's size.
    """
    images = list(islice(_jpegs(islice(samples, SAMPLES)), PICTURES))
    exact_decoder = Decoder(clip.manifest.preprocess, max_pixels=max_pixels)
    cosines: list[float] = []
    try:
        both = zip(clip.preprocess_ahead(images, _BATCH), exact_decoder.batches(images, _BATCH), strict=True)
        for (_, fast), (_, exact) in both:
            pairs = [
                (a, b)
                for a, b in zip(fast, exact, strict=True)
                if not isinstance(a, ImageError) and not isinstance(b, ImageError)
            ]
            if pairs:
                one, other = (clip.encode_image(np.stack(side)) for side in zip(*pairs, strict=True))
                cosines += [float(a.astype(np.float64) @ b.astype(np.float64)) for a, b in zip(one, other, strict=True)]
    finally:
        exact_decoder.close()
    if not cosines:
        return FastDecodeFigures(0, 1.0, 1.0)
    return FastDecodeFigures(len(cosines), float(np.mean(cosines)), float(np.min(cosines)))


def _jpegs(samples: Iterable[Sample]) -> Iterator[bytes | str]:
    for sample in samples:
        if isinstance(sample.image, bytes) and sample.image.startswith(_JPEG):
            yield sample.image
        elif isinstance(sample.image, str):
            try:
                with open(sample.image, "rb") as file:
                    start = file.read(len(_JPEG))
            except (OSError, ValueError):
                continue
            if start == _JPEG:
                yield sample.image
