"""The part of a bundle's manifest with the accuracy of engines on a task; `engines.manifest` is the whole.

The format in prose is ``engines/FORMAT.md``.
"""

from __future__ import annotations

import msgspec


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A share, or the difference of two shares, with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """An engine's accuracy on a task, next to that of eager float32 PyTorch on the same labelled pictures.

    Figures are shares from 0 to 1: ``top1``, ``top5``, ``image_to_text_recall_1`` …
    """

    engine: str
    verified_with: str
    dataset: str
    samples: int  # number of pictures
    classes: int  # number of classes; 0: the pictures have captions only
    eager: dict[str, Interval]
    figures: dict[str, Interval]  # the engine's figures
    change: dict[str, Interval]  # engine minus eager, for the figures that the gate judges
    limit: float  # largest allowed fall of a figure in `change`
    passed: bool
