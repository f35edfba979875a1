"""The tables of decoding: files to pixels with Pillow and with the C++ library, and the cosines of embeddings at reduced scale."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.rows import Row
from benchmarks.reporting.markdown import markdown_table
from benchmarks.reporting.readme_tables import measured_tables
from benchmarks.reporting.report_tables import NOISY, NOISY_LEGEND, Table, cell

NO_DECODE = "Not measured yet: `python -m benchmarks decode` does it."


def decode_table(results: Path) -> str:
    """Images per second of each way on every measured CPU, and its speedup over Pillow with as many threads."""
    return measured_tables(results, "decode", _speeds) or NO_DECODE


def scale_table(results: Path) -> str:
    """Mean and lowest cosine of the embeddings of files that are decoded at a part of their size, on every measured CPU."""
    return measured_tables(results, "decode", _cosines) or NO_DECODE


def _speeds(chosen: Sequence[Row]) -> str:
    rated = [row for row in chosen if row.figure == "per_second"]
    ratios = {(row.model, row.shape, row.engine): row for row in chosen if row.figure == "speedup"}
    lines = []
    for row in sorted(rated, key=lambda row: (row.model, row.threads)):
        ratio = ratios.get((row.model, row.shape, row.engine))
        lines.append(
            [row.note.rpartition(" ")[2], str(row.threads), row.engine, cell(row), cell(ratio) if ratio else "–"]
        )
    header = ["to", "threads", "decoder", "per second", "over Pillow"]
    notes = ["JPEG files of 1600 × 1200 pixels, quality 90, 4:2:0; medians, and of the ratios round by round."]
    notes += [NOISY_LEGEND] if any(NOISY in text for line in lines for text in line) else []
    return markdown_table(Table("", header, lines, 3, notes=notes))


def _cosines(chosen: Sequence[Row]) -> str:
    by_key = {
        (row.model, row.shape, row.figure): row for row in chosen if row.shape.rpartition(", ")[2].startswith("at 1/")
    }
    lines = []
    for model, shape in dict.fromkeys((model, shape) for model, shape, _ in by_key):
        size, _, scale = shape.removeprefix("JPEG ").partition(", at ")
        pair = [cell(by_key[model, shape, figure]) for figure in ("mean_cosine", "min_cosine")]
        sides = {"1/8": "1×", "1/4": "2×", "1/2": "4×"}[scale]
        lines.append([model, size.replace("x", " × "), scale, sides, *pair])
    return markdown_table(Table("", ["model", "JPEG", "decoded at", "sides", "mean cosine", "min cosine"], lines, 4))
