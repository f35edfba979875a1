"""Samples in batches, decoded by threads; pictures that cannot be read are left out and counted."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from engines.errors import ImageError, InputError
from engines.inputs.decode import Decoder
from engines.manifest import Preprocess
from exporter.datasets.data import Dataset, Sample


@dataclass(frozen=True)
class Batch:
    """Samples whose pictures can be read, and their pixels as the engine's own preprocessing gives them."""

    samples: tuple[Sample, ...]
    pixels: npt.NDArray[np.uint8]  # (N, H, W, 3)


@dataclass
class Skipped:
    """Pictures that could not be read so far, and what was wrong with the first."""

    count: int = 0
    first: str = ""


def read_batches(dataset: Dataset, config: Preprocess, size: int, skipped: Skipped) -> Iterator[Batch]:
    """All readable samples, `size` at a time; no more than one batch is in memory.

    Args:
        dataset: what to read.
        config: the checkpoint's preprocessing.
        size: samples in a batch.
        skipped: counts the others.

    Raises:
        InputError: none of the pictures can be read, or there is none.
    """
    decoder = Decoder(config)
    samples, found = dataset.samples(), False
    try:
        while group := list(itertools.islice(samples, size)):
            _, decoded = next(decoder.batches([sample.picture for sample in group], len(group)))
            kept, pixels = [], []
            for sample, item in zip(group, decoded, strict=True):
                if isinstance(item, ImageError):
                    skipped.count += 1
                    skipped.first = skipped.first or f"{sample.name}: {item}"
                else:
                    kept.append(sample)
                    pixels.append(item)
            if kept:
                found = True
                yield Batch(tuple(kept), np.stack(pixels))
    finally:
        decoder.close()
    if not found and skipped.count:
        raise InputError(f"none of the {skipped.count} pictures in {dataset.name} can be read: {skipped.first}")
    if not found:
        raise InputError(f"{dataset.name} has no picture")
