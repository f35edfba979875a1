"""The training data of the demo model: pictures, caption ids, and the table of pairs in which the caption is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from exporter.demo import scenes as demo_scenes
from exporter.demo.scenes import BACKGROUNDS, COLOURS, COUNTS, PLACES, SHAPES, Caption, Scene

IMAGE_SIZE = 64  # pixels
_TRIES = 100  # attempts to find near misses of one scene, because a small or sparse set has fewer than GROUP
GROUP = 8  # the number of scenes in a group, which differ in one field from its first scene

FIELD_VALUES: dict[str, tuple[Any, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "count": COUNTS,
    "place": PLACES,
    "background": BACKGROUNDS,
}


_FIELDS = tuple(FIELD_VALUES)


@dataclass(frozen=True)
class TrainingSet:
    """Pictures that are rendered before training, at the model's input size."""

    pixels: NDArray[np.uint8]  # (N, IMAGE_SIZE, IMAGE_SIZE, 3)
    scenes: tuple[Scene, ...]  # the scene of each picture
    rows: dict[Scene, range]  # the rows of each scene's pictures


def render_training_set(scenes: Sequence[Scene], renders_per_scene: int, seed: int) -> TrainingSet:
    """Render each scene several times, larger than the model's input, and shrink it as the model's preprocessing does."""
    rng = np.random.default_rng([seed, 1])
    pixels = np.empty((len(scenes) * renders_per_scene, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    repeated = tuple(scene for scene in scenes for _ in range(renders_per_scene))
    for row, scene in zip(pixels, repeated, strict=True):
        picture = demo_scenes.render(scene, demo_scenes.EVALUATION_SIZE, rng)
        row[:] = np.asarray(picture.resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BICUBIC))
    rows = {scene: range(i * renders_per_scene, (i + 1) * renders_per_scene) for i, scene in enumerate(scenes)}
    return TrainingSet(pixels, repeated, rows)


def easy_part(data: TrainingSet) -> TrainingSet:
    """Restrict the rows to pictures of one object on a plain background; all rows, if there are no such pictures."""
    plain = ("white", "grey", "black")
    rows = {scene: rows for scene, rows in data.rows.items() if scene.count == 1 and scene.background in plain}
    return TrainingSet(data.pixels, data.scenes, rows or data.rows)


def draw_batch(data: TrainingSet, size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw rows (size,) of `data` in groups of near misses.

    Each group is a random scene and others that differ from it in one field, so that every field has to be learned, because among
    unrelated scenes colour and shape would decide almost every pair.
    """
    scenes = list(data.rows)
    rows: list[int] = []
    while len(rows) < size:
        anchor = scenes[int(rng.integers(len(scenes)))]
        group = {anchor}
        for _ in range(_TRIES):
            if len(group) >= min(GROUP, size - len(rows)):
                break
            field = _FIELDS[int(rng.integers(len(_FIELDS)))]
            known = FIELD_VALUES[field]
            near = replace(anchor, **{field: known[int(rng.integers(len(known)))]})
            if near in data.rows:
                group.add(near)
        for scene in sorted(group):
            renders = data.rows[scene]
            rows.append(renders[int(rng.integers(len(renders)))])
    return np.array(rows)


def field_values(scenes: Sequence[Scene]) -> Tensor:
    """Return each scene's fields as indices into `FIELD_VALUES`: int64 (N, fields)."""
    return torch.tensor([[known.index(getattr(s, field)) for field, known in FIELD_VALUES.items()] for s in scenes])


def told_fields(captions: Sequence[Caption]) -> Tensor:
    """Return whether each caption mentions each field: bool (N, fields)."""
    return torch.tensor([[field in caption.mentions for field in FIELD_VALUES] for caption in captions])


def true_pairs(scenes: Sequence[Scene], captions: Sequence[Caption]) -> Tensor:
    """Return whether caption j is true of scene i: bool (len(scenes), len(captions)); caption k was written for scene k."""
    values, told = field_values(scenes), told_fields(captions)
    return ((values[:, None] == values[None, : len(captions)]) | ~told[None]).all(dim=-1)


class CaptionIds:
    """A cache of captions' token ids, because captions repeat and open_clip's tokenizer is slow."""

    def __init__(self, tokenizer: Callable[..., Tensor]) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, Tensor] = {}

    def __call__(self, captions: Sequence[Caption]) -> Tensor:
        """Return ids (N, L), where L is the longest caption's length with its end token."""
        new = sorted({caption.text for caption in captions} - self._known.keys())
        if new:
            self._known.update(zip(new, self._tokenizer(new), strict=True))
        ids = torch.stack([self._known[caption.text] for caption in captions])
        return ids[:, : int(ids.argmax(dim=-1).max()) + 1]
