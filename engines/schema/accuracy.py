"""The part of a bundle's manifest that says how engines did on a task; `engines.manifest` is the whole.

The format in prose is ``engines/FORMAT.md``.
"""

from __future__ import annotations

import msgspec


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """A share, or a difference of two, with the ends of its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Accuracy(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine makes of a task, next to eager float32 PyTorch on the same labelled pictures.

    Figures are shares from 0 to 1: ``top1``, ``top5``, ``image_to_text_recall_1`` …
    """

    engine: str
    verified_with: str
    dataset: str
    samples: int  # pictures
    classes: int  # 0: the pictures have captions only
    eager: dict[str, Interval]
    figures: dict[str, Interval]  # of the engine
    change: dict[str, Interval]  # engine minus eager, for the figures that the gate judges
    limit: float  # most that one of those may fall
    passed: bool
