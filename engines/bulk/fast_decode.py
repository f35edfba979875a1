"""The gate of ``--fast-decode``: how far embeddings of JPEG files move when these are decoded at a reduced scale."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from engines.bulk.samples import Sample
from engines.embedder import Embedder
from engines.errors import ImageError
from engines.inputs.decode import Decoder

# Limits of the cosine between both embeddings of a picture: its mean, and the least.
LEAST_MEAN = 0.995
LEAST_COSINE = 0.97
PICTURES = 64

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


def measure_fast_decode(clip: Embedder, samples: Iterable[Sample], max_pixels: int | None = None) -> FastDecodeFigures:
    """Embed the first JPEG pictures of some samples twice, decoded fast and exactly.

    Args:
        clip: the bundle, loaded with ``fast_decode=True``.
        samples: the job's first samples; they are drawn until there are enough pictures.
        max_pixels: the job's limit of an image's size.
    """
    images = [image for image, _ in zip(_jpegs(samples), range(PICTURES), strict=False)]
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
