"""How an engine and a precision look, the same in every plot: colour and marker of the engine, line of the precision."""

from __future__ import annotations

import zlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Look:
    """Of one engine.

    Attributes:
        colour: told apart with any colour vision, and at least 3:1 from a white and from a nearly black page.
        marker: matplotlib's letter; no two engines share one, so that no plot depends on colour.
    """

    colour: str
    marker: str


# In the order of tables and legends: what it is compared with, the peers, this project's engines. The colours are those of a search
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
BUNDLED = (
    "onnxruntime",
    "tensorrt",
    "tensorrt-rtx",
    "aotinductor",
    "openvino",
)  # engines that a bundle of this project can hold
_SPARE = tuple(Look(colour, marker) for colour in ("#8a7560", "#4d8f8f", "#b06a6a") for marker in ("h", "p", "d", "H"))

PRECISIONS = ("fp32", "tf32", "fp16", "bf16", "int8", "fp8")
_DASHES: dict[str, tuple[float, ...]] = {
    "fp32": (),
    "tf32": (7, 1.5),
    "fp16": (4, 1.5),
    "bf16": (1, 1.5),
    "int8": (4, 1.5, 1, 1.5),
    "fp8": (4, 1.5, 1, 1.5, 1, 1.5),
}


# Matplotlib's fill styles, for plots whose points are not joined.
_FILLINGS = {"fp32": "full", "tf32": "top", "fp16": "none", "bf16": "left", "int8": "bottom", "fp8": "right"}


def look(engine: str) -> Look:
    """Of an engine ("eager, by another harness" is eager); one that is not in `ENGINES` gets a spare look by its name."""
    return ENGINES.get(engine.split(",")[0]) or _SPARE[zlib.crc32(engine.encode()) % len(_SPARE)]


def dashes(precision: str) -> tuple[float, ...]:
    """On and off lengths of the line, in line widths; empty: a solid line."""
    return _DASHES.get(precision, (2, 2))


def filling(precision: str) -> str:
    """Which part of the marker is filled, as matplotlib names it."""
    return _FILLINGS.get(precision, "full")


def order(engine: str, precision: str) -> tuple[int, str, int, str]:
    """Sorts engines as `ENGINES` does, unknown ones last, and precisions from wide to narrow."""
    base = engine.split(",")[0]
    place = list(ENGINES).index(base) if base in ENGINES else len(ENGINES)
    width = PRECISIONS.index(precision) if precision in PRECISIONS else len(PRECISIONS)
    return place, engine, width, precision
