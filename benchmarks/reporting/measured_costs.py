"""The exporter's own table of measured costs (``exporter/planning/measured.csv``), made from the rows of the zoo."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from benchmarks.records.csv_file import read_rows
from benchmarks.records.table_files import ZOO, ZOO_ENGINES
from engines.precisions import QUANTIZED
from exporter.planning.measured import COLUMNS

PLACE = Path("exporter") / "planning" / "measured.csv"
_FIGURES = ("seconds", "peak_memory_mb", "file_mb")


def measured_costs(results: Path) -> str:
    """The text of the table: exports that ended well in precisions without calibration, and of an engine the largest figures.

    Args:
        results: folder of the rows.
    """
    lines = [_line(row, "", row["weights_fp32_mb"]) for row in _float_rows(results / ZOO.name)]
    engines: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in _float_rows(results / ZOO_ENGINES.name):
        engines.setdefault(tuple(row[name] for name in COLUMNS[:4]), []).append(row)
    for key, group in engines.items():
        lines.append(_line(_largest(group), key[3], group[0]["weights_mb"]))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(sorted(lines))
    return text.getvalue()


def _float_rows(file: Path) -> list[dict[str, str]]:
    return [row for row in read_rows(file) if row["status"] == "ok" and row["precision"] not in QUANTIZED]


def _largest(group: Sequence[Mapping[str, str]]) -> dict[str, str]:
    return {**group[0], **{name: max((row[name] for row in group), key=float) for name in _FIGURES}}


def _line(row: Mapping[str, str], engine: str, weights: str) -> tuple[str, ...]:
    return (row["model"], row["tower"], row["precision"], engine, *(row[name] for name in _FIGURES), weights)
