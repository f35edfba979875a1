"""Pictures and captions on which an engine's embeddings are compared with eager's, and the embeddings."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.manifest import Manifest
from engines.verification.embeddings import top1_agreement
from exporter.datasets import Dataset, Sample, Skipped, read_batches
from exporter.gate.metrics import Distance, embedding_distance
from exporter.gate.tasks import BATCH, Encoders, Progress

_TIE_MARGIN = 1e-6
_TEXTS = 64


@dataclass(frozen=True)
class Inputs:
    """Natural pictures and captions.

    Attributes:
        pictures: the pictures, readable or not.
        captions: distinct captions.
        name: the name in rows: ``natural pictures``, or the dataset's.
        source: one line on the origin of both.
    """

    pictures: Dataset
    captions: tuple[str, ...]
    name: str
    source: str


@dataclass(frozen=True)
class Embeddings:
    """Embeddings (N, D) of `Inputs` by one pair of encoders; None: the bundle lacks the tower."""

    image: npt.NDArray[np.float32] | None
    text: npt.NDArray[np.float32] | None
    skipped: Skipped


@dataclass(frozen=True)
class Agreement:
    """The distance of an engine from eager by tower, and the share of inputs whose nearest partner is the same one."""

    distances: dict[str, Distance]
    top1: dict[str, float]  # "image": pictures whose best caption is eager's; "text": captions whose best picture is


def natural_inputs(folder: Path | None, samples: int) -> Inputs:
    """Crops of photographs and open_clip's prompts, or a folder's pictures; see `exporter.reference.parity_data.load_parity_data`.

    Raises:
        ExportError: the folder has no picture; without a folder, the packages with the photographs are not installed.
    """
    from exporter.reference.parity_data import load_parity_data

    data = load_parity_data(folder, images=samples, captions=samples)
    pictures = [Sample(f"picture {i}", image) for i, image in enumerate(data.images)]
    name = "natural pictures" if folder is None else folder.resolve().name
    return Inputs(
        Dataset(name, lambda: iter(pictures), count=len(pictures), notes=data.notes), data.captions, name, data.source
    )


def dataset_inputs(dataset: Dataset, samples: int) -> Inputs:
    """Some of a dataset's pictures, evenly spaced where their number is known, and as many of its captions or prompts."""
    from exporter.datasets.data import spread

    chosen = None if dataset.count is None else set(spread(dataset.count, samples))

    def some() -> Iterator[Sample]:
        if chosen is None:
            return itertools.islice(dataset.samples(), samples)
        return (sample for i, sample in enumerate(dataset.samples()) if i in chosen)

    if dataset.has_captions:
        captions = list(dict.fromkeys(text for sample in some() for text in sample.captions))
    else:
        prompts = [t.replace("{}", name) for name in dataset.classes or () for t in dataset.templates]
        captions = list(dict.fromkeys(prompts))
    few = tuple(captions[i] for i in spread(len(captions), samples))
    count = None if chosen is None else len(chosen)
    pictures = dataclasses.replace(dataset, samples=some, classes=None, has_captions=False, count=count)
    return Inputs(pictures, few, dataset.name, f"pictures and texts of {dataset.name}")


def embed_inputs(encoders: Encoders, inputs: Inputs, manifest: Manifest, progress: Progress) -> Embeddings:
    """Embed the inputs with the towers that the bundle has.

    Raises:
        InputError: no picture can be read.
    """
    skipped, image, text = Skipped(), None, None
    if "image" in manifest.towers:
        batches = read_batches(inputs.pictures, manifest.preprocess, BATCH, skipped)
        parts = [
            encoders.encode_pictures([sample.picture for sample in batch.samples], batch.pixels)
            for batch in progress(batches, inputs.pictures.count)
        ]
        image = np.concatenate(parts)
    if "text" in manifest.towers:
        texts = inputs.captions
        text = np.concatenate([encoders.encode_texts(texts[i : i + _TEXTS]) for i in range(0, len(texts), _TEXTS)])
    return Embeddings(image, text, skipped)


def compare(eager: Embeddings, engine: Embeddings, manifest: Manifest) -> Agreement:
    """Compare an engine's embeddings with eager's of the same inputs."""
    distances = {}
    for tower, exact, other in (("image", eager.image, engine.image), ("text", eager.text, engine.text)):
        if exact is not None and other is not None:
            distances[tower] = embedding_distance(exact, other)
    if eager.image is None or eager.text is None or engine.image is None or engine.text is None:
        return Agreement(distances, {})
    margin = manifest.parity[-1].limits.tie_margin if manifest.parity else _TIE_MARGIN
    image = top1_agreement(eager.image, eager.text, engine.image, engine.text, margin)
    text = top1_agreement(eager.text, eager.image, engine.text, engine.image, margin)
    return Agreement(distances, {"image": image, "text": text})
