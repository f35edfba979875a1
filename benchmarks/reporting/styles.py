"""The look of engines and precisions, the same in every plot: colour and marker of the engine, line of the precision."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

from benchmarks.records.precisions import NAMES
from engines.engine_kinds import KINDS


@dataclass(frozen=True)
class Look:
    """The look of one engine.

    Attributes:
        colour: distinct with any colour vision, with a contrast of at least 3:1 to a white and to a nearly black page.
        marker: matplotlib's letter; no two engines share one, so that no plot depends on colour.
    """

    colour: str
    marker: str


# In the order of tables and legends: eager, the peers, this project's engines. The colours are those of a search
# for the largest smallest distance (CIELAB, 19) over normal, deuteranopic, protanopic and tritanopic vision (Machado et al., 2009).
ENGINES = {
    "eager": Look("#808080", "o"),
    "torch.compile": Look("#08a0d0", "s"),
    "torch.compile max-autotune": Look("#1068b8", "D"),
    "torch-tensorrt": Look("#886090", "*"),
    "openvino plain": Look("#8060f0", "P"),
    "onnxruntime plain": Look("#c08860", "v"),
    "onnxruntime": Look("#e84000", "^"),
    "tensorrt": Look("#c81858", "X"),
    "tensorrt-rtx": Look("#8028f8", "<"),
    "aotinductor": Look("#b04028", ">"),
    "openvino": Look("#209050", "d"),
}
# Engines that a bundle of this project can hold; a kind without a look of its own here gets a spare one, as any later engine does.
BUNDLED = tuple(sorted(KINDS, key=lambda kind: list(ENGINES).index(kind) if kind in ENGINES else len(ENGINES)))
_SPARE = tuple(Look(colour, marker) for colour in ("#8a7560", "#4d8f8f", "#b06a6a") for marker in ("h", "p", "8", "H"))

# For the precisions in the order of their table, on and off lengths; those after the last pattern share `_SPARE_DASHES`.
_DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (7, 1.5),
    (4, 1.5),
    (1, 1.5),
    (4, 1.5, 1, 1.5),
    (4, 1.5, 1, 1.5, 1, 1.5),
)
_SPARE_DASHES = (2, 2)
# Matplotlib's fill styles in the same order, for plots whose points are not joined; it has no more.
_FILLINGS = ("full", "top", "none", "left", "bottom", "right")


def look(engine: str) -> Look:
    """The look of an engine ("eager, by another harness" is eager); one that is not in `ENGINES` gets a spare look by its name."""
    return ENGINES.get(engine.split(",")[0]) or _SPARE[zlib.crc32(engine.encode()) % len(_SPARE)]


def dashes(precision: str) -> tuple[float, ...]:
    """On and off lengths of the line, in line widths; empty: a solid line."""
    return dict(zip(NAMES, _DASHES, strict=False)).get(precision, _SPARE_DASHES)


def filling(precision: str) -> str:
    """The part of the marker that is filled, as matplotlib names it."""
    return dict(zip(NAMES, _FILLINGS, strict=False)).get(precision, "full")


def order(engine: str, precision: str) -> tuple[int, str, int, str]:
    """The key that sorts engines as `ENGINES` does, unknown ones last, and precisions from wide to narrow."""
    base = engine.split(",")[0]
    place = list(ENGINES).index(base) if base in ENGINES else len(ENGINES)
    width = NAMES.index(precision) if precision in NAMES else len(NAMES)
    return place, engine, width, precision
