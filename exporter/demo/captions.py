"""The caption grammar of the demo scenes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from exporter.demo.vocabulary import Scene

_PLURAL = {"cross": "crosses"}
_COUNT_WORDS = {1: ("a", "one"), 2: ("two", "2"), 3: ("three", "3")}
_PLACE_WORDS = {
    "left": ("on the left", "at the left", "on the left side"),
    "right": ("on the right", "at the right", "on the right side"),
    "top": ("at the top", "near the top", "in the upper part"),
    "bottom": ("at the bottom", "near the bottom", "in the lower part"),
    "centre": ("in the centre", "in the middle", "in the center"),
}
_PREFIXES = ("", "a picture of ", "an image of ", "a drawing of ", "a rendering of ", "there is ", "this shows ")


@dataclass(frozen=True)
class Caption:
    """A sentence about a scene, and the names of the scene's fields that the sentence mentions."""

    text: str
    mentions: frozenset[str]  # names of Scene's fields; always "count" and "shape"


def class_caption(scene: Scene, place: bool = False, background: bool = False) -> str:
    """Write a scene's class caption for evaluation: its count, colour and shape, and with the flags its place and background."""
    caption = f"a picture of {_count_words(scene, 0)} {scene.colour} {_noun(scene)}"
    if place:
        caption += f" {_PLACE_WORDS[scene.place][0]}"
    return f"{caption} on a {scene.background} background" if background else caption


def write_caption(scene: Scene, rng: np.random.Generator, completeness: float = 0.7) -> Caption:
    """Write a caption of `scene` in one of several wordings.

    Args:
        scene: the scene to describe.
        rng: the generator that chooses the wording.
        completeness: the probability that the place is mentioned, and independently that the background is.

    Returns:
        The sentence in lower case without a full stop, and the fields that it mentions: always the count and the shape.
    """
    mentions = {"count", "shape"}
    noun = _noun(scene)
    if rng.random() < 0.95:
        mentions.add("colour")
        noun = f"{scene.colour} {noun}"
    subject = f"{_count_words(scene, int(rng.integers(2)))} {noun}"
    place = background = ""
    if rng.random() < completeness:
        mentions.add("place")
        place = str(rng.choice(_PLACE_WORDS[scene.place]))
    if rng.random() < completeness:
        mentions.add("background")
        background = f"on a {scene.background} background"
    prefix = str(rng.choice(_PREFIXES))
    if prefix == "there is " and scene.count > 1:
        prefix = "there are "
    ends = [part for part in (place, background) if part]
    if ends and not prefix and rng.random() < 0.25:
        return Caption(f"{ends[-1]}, {' '.join([subject, *ends[:-1]])}", frozenset(mentions))
    return Caption(prefix + " ".join([subject, *ends]), frozenset(mentions))


def _count_words(scene: Scene, which: int) -> str:
    word = _COUNT_WORDS[scene.count][which]
    return "an" if word == "a" and scene.colour[0] in "aeiou" else word


def _noun(scene: Scene) -> str:
    return scene.shape if scene.count == 1 else _PLURAL.get(scene.shape, f"{scene.shape}s")
