"""Rendered scenes with captions, and the held-out set of them on which demo and benchmarks measure accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exporter.demo.captions import Caption, class_caption, write_caption
from exporter.demo.drawing import render
from exporter.demo.vocabulary import (
    BACKGROUNDS,
    COLOURS,
    COUNTS,
    PLACES,
    SHAPES,
    Scene,
    all_scenes,
    held_out_combinations,
    test_scenes,
    train_scenes,
)

__all__ = [
    "BACKGROUNDS",
    "COLOURS",
    "COUNTS",
    "EVALUATION_IMAGES",
    "EVALUATION_SIZE",
    "PLACES",
    "SHAPES",
    "Caption",
    "EvaluationSet",
    "Scene",
    "all_scenes",
    "class_caption",
    "evaluation_set",
    "held_out_combinations",
    "render",
    "test_scenes",
    "train_scenes",
    "write_caption",
]

EVALUATION_IMAGES = 1000
EVALUATION_SIZE = 128  # pixels; larger than the model's input, so that resizing is measured, too


@dataclass(frozen=True)
class EvaluationSet:
    """The data of zero-shot classification of held-out scenes: pictures, class captions, and each picture's correct caption."""

    images: tuple[Image.Image, ...]  # RGB, size x size
    labels: NDArray[np.int64]  # (N,), indices into `captions`
    captions: tuple[str, ...]  # one per class
    scenes: tuple[Scene, ...]  # the scene of each image


def evaluation_set(
    images: int = EVALUATION_IMAGES,
    size: int = EVALUATION_SIZE,
    seed: int = 2026,
    place: bool = False,
    background: bool = False,
) -> EvaluationSet:
    """Render held-out scenes, spread over their classes as evenly as possible, with the captions of all classes.

    A class is a held-out combination of colour, shape and count: 54 classes, whose pictures differ in the other two
    fields. Classes that differ in these fields, too, are harder to classify.

    Args:
        images: the number of pictures to render.
        size: the side of each picture, in pixels.
        seed: the seed of the renders; these combinations are not in the model's training data under any seed.
        place: whether classes differ in the place, too (5 times the classes).
        background: whether classes differ in the background, too (6 times the classes).

    Returns:
        The pictures, their class indices, and one caption for each class.
    """
    rng = np.random.default_rng(seed)
    by_caption: dict[str, list[Scene]] = {}
    for scene in test_scenes():
        by_caption.setdefault(class_caption(scene, place, background), []).append(scene)
    captions = tuple(by_caption)
    order = np.concatenate([rng.permutation(len(captions)) for _ in range(-(-images // len(captions)))])[:images]
    members = [by_caption[captions[label]] for label in order]
    scenes = tuple(choice[int(rng.integers(len(choice)))] for choice in members)
    pictures = tuple(render(scene, size, rng) for scene in scenes)
    return EvaluationSet(pictures, order.astype(np.int64), captions, scenes)
