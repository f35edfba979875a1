"""Zero-shot classification and retrieval by one pair of encoders, eager's or an engine's, on the same samples."""

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
_CLASSES = 64  # whose prompts are embedded in one call
_TEXTS = 1024

Progress = Callable[[Iterable[Batch], "int | None"], Iterator[Batch]]


class Encoders(Protocol):
    """What is measured: two functions that give L2-normalized embeddings (N, D) float32."""

    def encode_pictures(self, pictures: Sequence[Picture], pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embeddings of pictures, given as they are and as uint8 (N, H, W, 3) of the engine's own preprocessing."""

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings of texts."""


@dataclass(frozen=True)
class Outcome:
    """What one pair of encoders made of a dataset: ranks, from which every accuracy follows.

    Attributes:
        class_ranks: (N,) of each picture, how many classes it prefers to its own; None: the dataset has no labels.
        caption_ranks: (N,) of each picture, how many wrong captions come before its first right one; None: it has no captions.
        picture_ranks: (M,) of each distinct caption, how many wrong pictures come before its first right one.
        caption_groups: (M,) the first picture that has the caption.
        skipped: pictures that cannot be read.
        classes: how many there are.
    """

    class_ranks: npt.NDArray[np.int64] | None
    caption_ranks: npt.NDArray[np.int64] | None
    picture_ranks: npt.NDArray[np.int64] | None
    caption_groups: npt.NDArray[np.int64] | None
    skipped: Skipped
    classes: int = 0


def measure(encoders: Encoders, dataset: Dataset, config: Preprocess, progress: Progress) -> Outcome:
    """Run every task of a dataset in one pass over it.

    Of a classification only ranks stay in memory; retrieval keeps the embeddings (4 bytes x size for each picture and caption).

    Raises:
        InputError: no picture can be read; a label is out of range; fewer than two pictures have a caption.
    """
    skipped = Skipped()
    classes = class_embeddings(encoders, dataset.classes, dataset.templates) if dataset.classes is not None else None
    class_ranks: list[npt.NDArray[np.int64]] = []
    embeds: list[npt.NDArray[np.float32]] = []
    captions: list[tuple[str, ...]] = []
    for batch in progress(read_batches(dataset, config, BATCH, skipped), dataset.count):
        found = encoders.encode_pictures([sample.picture for sample in batch.samples], batch.pixels)
        if classes is not None:
            labels = np.array([sample.label for sample in batch.samples], dtype=np.int64)
            class_ranks.append(label_ranks(found.astype(np.float64) @ classes.T, labels))
        if dataset.has_captions:
            told = [i for i, sample in enumerate(batch.samples) if sample.captions]
            embeds.append(found[told])
            captions += [batch.samples[i].captions for i in told]
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
    """(classes, D): of each class the normalized mean over its prompts, as open_clip and `engines` have it."""
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
    """Ranks both ways. Equal captions are one caption, right for every picture that has it: no model could tell them apart."""
    index: dict[str, int] = {}
    own = [[index.setdefault(text, len(index)) for text in dict.fromkeys(texts)] for texts in captions]
    having: list[list[int]] = [[] for _ in index]
    for picture, wanted in enumerate(own):
        for caption in wanted:
            having[caption].append(picture)
    texts = list(index)
    embeds = np.concatenate([encoders.encode_texts(texts[i : i + _TEXTS]) for i in range(0, len(texts), _TEXTS)])
    groups = np.array([pictures_of[0] for pictures_of in having], dtype=np.int64)
    return retrieval_ranks(pictures, embeds, own), retrieval_ranks(embeds, pictures, having), groups


def accuracies(outcome: Outcome, eager: Outcome | None = None) -> dict[str, dict[str, Estimate]]:
    """Task to figure to estimate; what is right by any answer (the best 5 of 4 classes) is left out.

    Args:
        outcome: of an engine, or of eager.
        eager: to compare an engine with on the same samples; its figures are those that end in ``_change``.
    """
    found: dict[str, dict[str, Estimate]] = {}
    if outcome.class_ranks is not None:
        figures = {f"top{k}": share(outcome.class_ranks < k) for k in (1, 5) if k < outcome.classes}
        if eager is not None and eager.class_ranks is not None:
            figures["top1_change"] = change(outcome.class_ranks < 1, eager.class_ranks < 1)
        found["zero_shot"] = figures
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
        found["retrieval"] = figures
    return found
