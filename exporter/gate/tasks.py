"""The tasks, zero-shot classification and retrieval, by one pair of encoders, eager's or an engine's, on the same samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import InputError
from engines.manifest import Preprocess
from exporter.datasets import Batch, Dataset, Picture, Skipped, read_batches
from exporter.gate.metrics import Estimate, change, label_ranks, retrieval_ranks, share

BATCH = 32
RECALLS = (1, 5, 10)
_CLASSES = 64  # the number of classes whose prompts are embedded in one call
_TEXTS = 1024

Progress = Callable[[Iterable[Batch], "int | None"], Iterator[Batch]]


class Encoders(Protocol):
    """A pair of encoders to measure: two functions that return L2-normalized embeddings (N, D) float32."""

    def encode_pictures(self, pictures: Sequence[Picture], pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute embeddings of pictures, given as they are and as uint8 (N, H, W, 3) of the engine's own preprocessing."""

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Compute embeddings of texts."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one pair of encoders on a dataset: ranks, from which every accuracy follows.

    Attributes:
        class_ranks: the number of classes that each picture prefers to its own, (N,); None: the dataset has no labels.
        caption_ranks: the number of wrong captions before each picture's first right one, (N,); None: it has no captions.
        picture_ranks: the number of wrong pictures before each distinct caption's first right one, (M,).
        caption_groups: the first picture that has each distinct caption, (M,).
        skipped: the pictures that cannot be read.
        classes: the number of classes.
    """

    class_ranks: npt.NDArray[np.int64] | None
    caption_ranks: npt.NDArray[np.int64] | None
    picture_ranks: npt.NDArray[np.int64] | None
    caption_groups: npt.NDArray[np.int64] | None
    skipped: Skipped
    classes: int = 0


def measure(encoders: Encoders, dataset: Dataset, config: Preprocess, progress: Progress) -> Outcome:
    """Run every task of a dataset in one pass over it.

    A classification keeps only ranks in memory; retrieval keeps the embeddings (4 bytes x size for each picture and caption).

    Raises:
        InputError: no picture can be read; a label is out of range; fewer than two pictures have a caption.
    """
    skipped = Skipped()
    classes = class_embeddings(encoders, dataset.classes, dataset.templates) if dataset.classes is not None else None
    class_ranks: list[npt.NDArray[np.int64]] = []
    embeds: list[npt.NDArray[np.float32]] = []
    captions: list[tuple[str, ...]] = []
    for batch in progress(read_batches(dataset, config, BATCH, skipped), dataset.count):
        encoded = encoders.encode_pictures([sample.picture for sample in batch.samples], batch.pixels)
        if classes is not None:
            labels = np.array([sample.label for sample in batch.samples], dtype=np.int64)
            class_ranks.append(label_ranks(encoded.astype(np.float64) @ classes.T, labels))
        if dataset.has_captions:
            captioned = [i for i, sample in enumerate(batch.samples) if sample.captions]
            embeds.append(encoded[captioned])
            captions += [batch.samples[i].captions for i in captioned]
    ranks = np.concatenate(class_ranks) if class_ranks else None
    if not dataset.has_captions:
        return Outcome(ranks, None, None, None, skipped, len(dataset.classes or ()))
    if len(captions) < 2:
        raise InputError(
            f"{dataset.name} has {len(captions)} readable pictures with a caption: retrieval needs two or more"
        )
    retrieved = _retrieve(encoders, np.concatenate(embeds), captions)
    return Outcome(ranks, *retrieved, skipped, len(dataset.classes or ()))


def class_embeddings(encoders: Encoders, classes: Sequence[str], templates: Sequence[str]) -> npt.NDArray[np.float64]:
    """Compute class embeddings (classes, D): each class's normalized mean over its prompts, as in open_clip and `engines`."""
    parts = []
    for start in range(0, len(classes), _CLASSES):
        names = classes[start : start + _CLASSES]
        prompts = [template.replace("{}", name) for name in names for template in templates]
        embeds = encoders.encode_texts(prompts).astype(np.float64).reshape(len(names), len(templates), -1).mean(axis=1)
        parts.append(embeds / np.linalg.norm(embeds, axis=1, keepdims=True))
    return np.concatenate(parts)


def _retrieve(
    encoders: Encoders, pictures: npt.NDArray[np.float32], captions: Sequence[tuple[str, ...]]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rank captions for pictures and pictures for captions; returns both ranks, and the first picture of each caption.

    Equal captions are one caption, right for every picture that has it, because no model could distinguish them.
    """
    index: dict[str, int] = {}
    captions_of = [[index.setdefault(text, len(index)) for text in dict.fromkeys(texts)] for texts in captions]
    having: list[list[int]] = [[] for _ in index]
    for picture, indices in enumerate(captions_of):
        for caption in indices:
            having[caption].append(picture)
    texts = list(index)
    embeds = np.concatenate([encoders.encode_texts(texts[i : i + _TEXTS]) for i in range(0, len(texts), _TEXTS)])
    groups = np.array([pictures_of[0] for pictures_of in having], dtype=np.int64)
    return retrieval_ranks(pictures, embeds, captions_of), retrieval_ranks(embeds, pictures, having), groups


def accuracies(outcome: Outcome, eager: Outcome | None = None) -> dict[str, dict[str, Estimate]]:
    """Estimate figures by task and name; figures that every answer reaches (the best 5 of 4 classes) are left out.

    Args:
        outcome: an engine's outcome, or eager's.
        eager: eager's outcome on the same samples, for the figures whose names end in ``_change``; None: there are no such figures.
    """
    tasks: dict[str, dict[str, Estimate]] = {}
    if outcome.class_ranks is not None:
        figures = {f"top{k}": share(outcome.class_ranks < k) for k in (1, 5) if k < outcome.classes}
        if eager is not None and eager.class_ranks is not None:
            figures["top1_change"] = change(outcome.class_ranks < 1, eager.class_ranks < 1)
        tasks["zero_shot"] = figures
    if outcome.caption_ranks is not None and outcome.picture_ranks is not None:
        figures = {}
        pictures, captions = len(outcome.caption_ranks), len(outcome.picture_ranks)
        for name, ranks, theirs, groups, items in (
            ("image_to_text", outcome.caption_ranks, eager.caption_ranks if eager else None, None, captions),
            (
                "text_to_image",
                outcome.picture_ranks,
                eager.picture_ranks if eager else None,
                outcome.caption_groups,
                pictures,
            ),
        ):
            figures |= {f"{name}_recall_{k}": share(ranks < k, groups) for k in RECALLS if k < items}
            if theirs is not None:
                figures[f"{name}_recall_1_change"] = change(ranks < 1, theirs < 1, groups)
        tasks["retrieval"] = figures
    return tasks
