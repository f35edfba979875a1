"""Rows of what = cpp: calls, starts and memory of the Python runtime and the C++ library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.cpp_library.measurement import Calls, Start
from benchmarks.cpp_library.side import Order
from benchmarks.harness.case_rows import row_of
from benchmarks.records.estimates import estimate, rates, speedup
from benchmarks.records.figures import FIGURES
from benchmarks.records.languages import engine_label
from benchmarks.records.machine import usable_cores
from benchmarks.records.rows import Row

_TOWERS = {"images": ("image", "files"), "texts": ("text", "captions")}


@dataclass(frozen=True)
class Place:
    """What all rows of one engine share.

    Attributes:
        model: the model's name.
        engine: the kind of engine.
        precision: the bundle's.
        weights: ``random``, or their origin.
    """

    model: str
    engine: str
    precision: str
    weights: str

    def columns(self, language: str, versions: str = "") -> dict[str, Any]:
        """The columns of a language's rows."""
        return {
            "what": "cpp",
            "model": self.model,
            "engine": engine_label(self.engine, language),
            "precision": self.precision,
            "weights": self.weights,
            "threads": usable_cores(),
            "versions": versions,
        }


def start_rows(place: Place, starts: Mapping[str, Sequence[Start]], versions: Mapping[str, str]) -> list[Row]:
    """Seconds to the first embeddings, and memory after them."""
    found = []
    for language, taken in starts.items():
        figures = {
            "first_text": [start.first_text for start in taken],
            "first_image": [start.first_image for start in taken],
            "host_memory": [start.resident / 1e6 for start in taken],
            "peak_host_memory": [start.peak / 1e6 for start in taken],
        }
        note = f"{len(taken)} fresh processes, files in the page cache"
        columns = place.columns(language, versions[language]) | {"note": note}
        found += [row_of(figure, estimate(values), **columns) for figure, values in figures.items()]
    return found


def call_rows(place: Place, calls: Mapping[tuple[Order, str], Calls], versions: Mapping[str, str]) -> list[Row]:
    """Items per second, and of C++ the speedup over Python, round by round."""
    found = []
    for (order, language), own in calls.items():
        tower, shape = _TOWERS[order.what]
        columns = place.columns(language, versions[language]) | {
            "tower": tower,
            "batch": own.items // order.callers,
            "shape": f"{shape}, {order.callers} caller{'s' if order.callers > 1 else ''}",
        }
        found.append(row_of("per_second", rates(own.seconds, own.items, own.passes), **columns))
        if language != "Python":
            ratio = speedup(own.seconds, calls[order, "Python"].seconds, own.passes)
            found.append(row_of("speedup", ratio, **columns, note="over Python, round by round"))
    return found


def missing_row(place: Place, reason: str) -> Row:
    """The row of an engine that does not run in both languages here."""
    columns = place.columns("C++")
    return Row(figure="per_second", status="missing", note=reason, unit=FIGURES["per_second"].unit, **columns)
