"""The reading of samples in batches, decoded by threads; pictures that cannot be read are left out and counted."""

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
    """Samples whose pictures can be read, with their pixels after the engine's own preprocessing."""

    samples: tuple[Sample, ...]
    pixels: npt.NDArray[np.uint8]  # (N, H, W, 3)


@dataclass
class Skipped:
    """The number of pictures that could not be read so far, and the error of the first."""

    count: int = 0
    first: str = ""


def read_batches(dataset: Dataset, config: Preprocess, size: int, skipped: Skipped) -> Iterator[Batch]:
    """Read all readable samples, `size` at a time; at most one batch is in memory.

    Args:
        dataset: the dataset to read.
        config: the checkpoint's preprocessing.
        size: the number of samples in a batch.
        skipped: the counter of samples that cannot be read.

    Raises:
        InputError: no picture can be read, or the dataset has none.
    """
    decoder = Decoder(config)
    samples, any_batch = dataset.samples(), False
    try:
        while group := list(itertools.islice(samples, size)):
            _, decoded = next(decoder.batches([sample.picture for sample in group], len(group)))
            readable, pixels = [], []
            for sample, item in zip(group, decoded, strict=True):
                if isinstance(item, ImageError):
                    skipped.count += 1
                    skipped.first = skipped.first or f"{sample.name}: {item}"
                else:
                    readable.append(sample)
                    pixels.append(item)
            if readable:
                any_batch = True
                yield Batch(tuple(readable), np.stack(pixels))
    finally:
        decoder.close()
    if not any_batch and skipped.count:
        raise InputError(f"none of the {skipped.count} pictures in {dataset.name} can be read: {skipped.first}")
    if not any_batch:
        raise InputError(f"{dataset.name} has no picture")
