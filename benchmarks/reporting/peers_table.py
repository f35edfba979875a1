"""The table of this project's engines and other libraries that serve CLIP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.records.peers import ratio_label, split_ratio_label
from benchmarks.records.rows import Row
from benchmarks.reporting.markdown import markdown_table
from benchmarks.reporting.readme_tables import measured_tables
from benchmarks.reporting.report_tables import NOISY, NOISY_LEGEND, Table, cell

NO_PEERS = "Not measured yet: `python -m benchmarks peers` does it."
_ITEMS = {"image": "pictures", "text": "captions"}
_NONE = "–"


def peers_table(results: Path) -> str:
    """Items per second of every contender on each measured CPU, and our engines over the fastest peer of each case."""
    return measured_tables(results, "peers", _one_machine) or NO_PEERS


def _one_machine(chosen: Sequence[Row]) -> str:
    return "\n\n".join(filter(None, (_speeds(chosen), _ratios(chosen))))


def _cases(chosen: Sequence[Row]) -> list[tuple[str, str, int]]:
    """(model, tower, batch) in the order of columns."""
    return sorted({(r.model, r.tower, r.batch) for r in chosen if r.figure == "per_second" and r.value is not None})


def _head(case: tuple[str, str, int], models: int) -> str:
    model, tower, batch = case
    return f"{model + ', ' if models > 1 else ''}{_ITEMS[tower]}, batch {batch}"


def _speeds(chosen: Sequence[Row]) -> str:
    """A line for each contender: its speed, and how far its embeddings are from our float32 ones."""
    cases = _cases(chosen)
    models = len({model for model, _, _ in cases})
    rates = {(r.engine, r.precision, r.model, r.tower, r.batch): r for r in chosen if r.figure == "per_second"}
    errors = {(r.engine, r.precision, r.tower): r for r in chosen if r.figure == "max_abs_error"}
    cosines = {(r.engine, r.precision, r.tower): r for r in chosen if r.figure == "min_cosine" and r.shape != "files"}
    lines = []
    for engine, precision in dict.fromkeys((r.engine, r.precision) for r in chosen if r.figure == "per_second"):
        values = [rates.get((engine, precision, *case)) for case in cases]
        equal = [" / ".join(_cell(of.get((engine, precision, tower))) for tower in _ITEMS) for of in (errors, cosines)]
        lines.append([engine, precision, *(map(_cell, values)), *equal])
    header = ["", "weights", *(_head(case, models) for case in cases), "max error, image / text", "min cosine"]
    reasons = dict.fromkeys(
        f"{r.engine} {r.precision} {r.tower} ({r.status}: {r.note})" for r in chosen if r.value is None
    )
    notes = ["Per second, medians; errors and cosines are those of embeddings against onnxruntime fp32."]
    notes += [NOISY_LEGEND] if any(NOISY in text for line in lines for text in line) else []
    notes += [f"Not measured: {'; '.join(reasons)}."] if reasons else []
    return markdown_table(Table("", header, lines, 2, notes=notes))


def _ratios(chosen: Sequence[Row]) -> str:
    """A line for each of our engines: its speedup over the fastest peer of each case."""
    cases = _cases(chosen)
    models = len({model for model, _, _ in cases})
    ratios = {(r.engine, r.precision, r.model, r.tower, r.batch): r for r in chosen if r.figure == "speedup"}
    ours = dict.fromkeys((split_ratio_label(engine)[0], precision) for engine, precision, *_ in ratios)
    peers = {split_ratio_label(engine)[1] for engine, *_ in ratios}
    fastest: dict[tuple[str, str, int], str] = {}
    for case in cases:
        rates = {
            r.engine: r.value
            for r in chosen
            if r.figure == "per_second" and r.value and r.engine in peers and (r.model, r.tower, r.batch) == case
        }
        if rates:
            fastest[case] = max(rates, key=lambda engine: rates[engine])
    shown = [case for case in cases if case in fastest]
    lines = [
        [engine, precision]
        + [_cell(ratios.get((ratio_label(engine, fastest[case]), precision, *case))) for case in shown]
        for engine, precision in ours
    ]
    header = ["this project", "weights", *(f"{_head(case, models)}: over {fastest[case]}" for case in shown)]
    notes = ["Over the peer with the highest median of that column; medians of the ratios round by round."]
    return markdown_table(Table("", header, lines, 2, notes=notes)) if lines else ""


def _cell(row: Row | None) -> str:
    return _NONE if row is None or row.value is None else cell(row)
