"""Costs that were measured on whole exports with random weights: seconds, peak memory and file sizes by architecture.

``measured.csv`` is written by ``python -m benchmarks tables`` from the rows of ``make zoo``, and is part of the wheel. A row
without an engine is a tower's graph; one with an engine is that engine of the tower, the largest figure of all its targets.
Quantized precisions have no rows, because their time depends on the calibration data.
The zoo's gate takes `PICTURES` pictures, and its exports ran on `CORES` cores.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from statistics import median

from engines.precisions import PRECISIONS

PICTURES = 4
CORES = 2
COLUMNS = (
    "model",
    "tower",
    "precision",
    "engine",
    "seconds",
    "peak_memory_mb",
    "file_mb",
    "weights_fp32_mb",
)
_MB = 1e6


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        seconds: time of the tower's export, with its share of the gate; or of the engine's build.
        peak_bytes: peak memory of the whole export, which all its graphs share; or of the process that built the engine.
        file_bytes: size of the graph with its weights, or of the engine.
        weights_bytes: the whole model's weights in float32; or, of an engine, the weights of the graph it was built from.
    """

    seconds: float
    peak_bytes: float
    file_bytes: float
    weights_bytes: float


@lru_cache(maxsize=1)
def rows() -> dict[tuple[str, str, str, str], Row]:
    """All rows by (model, tower, precision, engine); the engine of a graph is an empty text."""
    lines = resources.files("exporter.planning").joinpath("measured.csv").read_text(encoding="utf-8").splitlines()
    return {
        (row["model"], row["tower"], row["precision"], row["engine"]): Row(
            float(row["seconds"]),
            float(row["peak_memory_mb"]) * _MB,
            float(row["file_mb"]) * _MB,
            float(row["weights_fp32_mb"]) * _MB,
        )
        for row in csv.DictReader(lines)
    }


def graph(model: str, tower: str, precision: str) -> Row | None:
    """The measured export of a tower's graph; None if it was not measured."""
    return rows().get((model, tower, precision, ""))


def engine(model: str, tower: str, precision: str, kind: str) -> Row | None:
    """The measured build of an engine; None if it was not measured."""
    return rows().get((model, tower, precision, kind))


def estimated_peak(weights_bytes: float, built: bool = False) -> float:
    """Peak memory of an export that was not measured, in bytes: on the lowest of some lines that no measured one is above.

    Args:
        weights_bytes: the model's weights in float32; with `built` the weights of the graph that an engine is built from.
        built: whether it is the builder of an engine.
    """
    known = _of(built)
    start, sizes = (_BUILDER_BASE, _BUILDER_LARGE) if built else (_EXPORT_BASE, _EXPORT_LARGE)
    lines = []
    for large in sizes:
        # Of small models the libraries are the larger part, and of middle ones the activations may be (RN50x64).
        slope = max((row.peak_bytes - start) / row.weights_bytes for row in known if row.weights_bytes >= large)
        lines.append(max(row.peak_bytes - slope * row.weights_bytes for row in known) + slope * weights_bytes)
    return min(lines)


def estimated_export_seconds(parameters: int, precision: str) -> float:
    """Time of a tower's export that was not measured: the median of measured ones, by the number of parameters.

    Args:
        parameters: the tower's number of parameters.
        precision: the precision's name; rows of its width count, or all where it has none.
    """
    graphs = [(PRECISIONS[key[2]].operand_bytes, row) for key, row in rows().items() if not key[3]]
    known = [item for item in graphs if item[0] == PRECISIONS[precision].operand_bytes] or graphs
    return parameters * median(row.seconds * width / row.file_bytes for width, row in known)


def estimated_build_seconds(weights_bytes: float) -> float:
    """Time of an engine's build that was not measured: the median of measured ones, by the weights of the engine's graph."""
    return weights_bytes * median(row.seconds / row.weights_bytes for row in _of(True))


# Bytes of a process with the libraries alone, PyTorch and the exporter or a builder; and the bytes of weights from which on
# models give a line its slope.
_EXPORT_BASE, _EXPORT_LARGE = 1.0e9, (1.0e9, 3.0e9)
_BUILDER_BASE, _BUILDER_LARGE = 0.4e9, (0.25e9,)


def _of(built: bool) -> list[Row]:
    return [row for key, row in rows().items() if bool(key[3]) == built]
