"""The vocabulary of the demo scenes, and their split into scenes for training and scenes for measurement.

A scene is one to three objects of one colour and one shape, in one place, on one background. The split is by
combination: 54 of the 216 combinations of a colour, a shape and a count are held out. The training data has no picture and no
caption of such a combination, in any place or on any background, though it has every colour, shape and count.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

COLOURS = {
    "red": (212, 38, 38),
    "orange": (240, 132, 24),
    "yellow": (238, 212, 42),
    "green": (44, 152, 58),
    "cyan": (52, 196, 208),
    "blue": (42, 78, 204),
    "purple": (124, 48, 164),
    "pink": (244, 136, 188),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart", "crescent")
COUNTS = (1, 2, 3)
PLACES = ("left", "right", "top", "bottom", "centre")
BACKGROUNDS = ("white", "grey", "black", "striped", "dotted", "checkered")


@dataclass(frozen=True, order=True)
class Scene:
    """The content of a picture; the five fields are the vocabulary of the captions."""

    colour: str
    shape: str
    count: int
    place: str
    background: str

    def __post_init__(self) -> None:
        for field, value, known in (
            ("colour", self.colour, tuple(COLOURS)),
            ("shape", self.shape, SHAPES),
            ("count", self.count, COUNTS),
            ("place", self.place, PLACES),
            ("background", self.background, BACKGROUNDS),
        ):
            if value not in known:
                raise ValueError(f"{field} {value!r} is none of {', '.join(map(str, known))}")


@lru_cache(maxsize=1)
def held_out_combinations() -> frozenset[tuple[str, str, int]]:
    """The (colour, shape, count) combinations that are not in the training data: 54 of 216.

    Each pair of colour and shape lacks at most one count, and each count is lacking for a quarter of the pairs.
    """
    return frozenset(
        (colour, shape, COUNTS[(i + j) % 4])
        for i, colour in enumerate(COLOURS)
        for j, shape in enumerate(SHAPES)
        if (i + j) % 4 < len(COUNTS)
    )


def is_held_out(scene: Scene) -> bool:
    """Whether the scene is for measurement, and not for training."""
    return (scene.colour, scene.shape, scene.count) in held_out_combinations()


def train_scenes() -> tuple[Scene, ...]:
    """All scenes whose colour, shape and count are not held out, in a fixed order."""
    return tuple(scene for scene in all_scenes() if not is_held_out(scene))


def test_scenes() -> tuple[Scene, ...]:
    """All scenes whose colour, shape and count are held out, in a fixed order."""
    return tuple(scene for scene in all_scenes() if is_held_out(scene))


test_scenes.__test__ = False  # type: ignore[attr-defined]  # not a test, though pytest would collect it by its name


def all_scenes() -> tuple[Scene, ...]:
    """All possible scenes, in a fixed order."""
    return tuple(Scene(*values) for values in product(COLOURS, SHAPES, COUNTS, PLACES, BACKGROUNDS))
