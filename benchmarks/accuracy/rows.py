"""Rows and tables of the parity benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.accuracy.inputs import Agreement
from benchmarks.records.figures import FIGURES, short_label
from benchmarks.records.rows import Row, Status
from engines.manifest import Manifest
from engines.process.tables import format_table
from exporter.gate.metrics import Estimate, wilson

# Distances between embeddings, and accuracies by the kind of measurement.
_DISTANCES = tuple(name for name, figure in FIGURES.items() if figure.exact is not None)
_ACCURACIES = {
    task: tuple(name for name, figure in FIGURES.items() if figure.task == task) for task in ("zero_shot", "retrieval")
}


def parity_rows(agreement: Agreement, engine: str, manifest: Manifest, data: str, note: str) -> list[Row]:
    """Cosines, errors and agreement of one engine; the agreement's interval is Wilson's."""
    rows = []
    for tower, distance in agreement.distances.items():
        shared = _columns(manifest, engine, data, note, tower=tower, repeats=distance.samples)
        rows += [Row("parity", figure=name, value=getattr(distance, name), **shared) for name in _DISTANCES]
        if tower in agreement.top1:
            value = agreement.top1[tower]
            low, high = wilson(value * distance.samples, distance.samples)
            rows.append(Row("parity", figure="top1_agreement", value=value, low=low, high=high, **shared))
    return rows


def accuracy_rows(
    figures: Mapping[str, Mapping[str, Estimate]], engine: str, manifest: Manifest, data: str, note: str
) -> list[Row]:
    """Accuracies of eager or of an engine, with their intervals."""
    rows = []
    for task, estimates in figures.items():
        for name, estimate in estimates.items():
            shared = _columns(manifest, engine, data, note, repeats=estimate.samples)
            rows.append(Row(task, figure=name, value=estimate.value, low=estimate.low, high=estimate.high, **shared))
    return rows


def empty_parity_rows(engine: str, manifest: Manifest, data: str, status: Status, note: str) -> list[Row]:
    """Rows without values, in the place of every figure that the engine would have."""
    towers = [_columns(manifest, engine, data, note, tower=tower, status=status) for tower in manifest.towers]
    return [Row("parity", figure=name, **shared) for shared in towers for name in (*_DISTANCES, "top1_agreement")]


def empty_accuracy_rows(
    tasks: Sequence[str], engine: str, manifest: Manifest, data: str, status: Status, note: str
) -> list[Row]:
    """Rows without values, in the place of every figure of the tasks."""
    shared = _columns(manifest, engine, data, note, status=status)
    return [Row(task, figure=name, **shared) for task in tasks for name in _ACCURACIES[task]]


def _columns(manifest: Manifest, engine: str, data: str, note: str, **more: Any) -> dict[str, Any]:
    model = manifest.model
    return {
        "model": model.name if model.name == "demo" else model.architecture,
        "weights": "random" if model.source == "random" else model.tag or model.name,
        "engine": engine,
        "precision": "fp32" if engine.startswith("eager") else manifest.precision,
        "shape": data,
        "note": note,
    } | more


def tables(rows: Iterable[Row]) -> str:
    """The rows of one run as tables for a terminal."""
    by_what: dict[str, list[Row]] = {}
    for row in rows:
        by_what.setdefault(row.what, []).append(row)
    parts = []
    for what, title in (
        ("parity", "embeddings against eager float32"),
        ("zero_shot", "zero-shot"),
        ("retrieval", "recall"),
    ):
        group = by_what.get(what)
        if group:
            parts.append(
                f"{title}, {group[0].shape}:\n{_parity_table(group) if what == 'parity' else _accuracy_table(group)}"
            )
    return "\n\n".join(parts)


def _parity_table(rows: Sequence[Row]) -> str:
    cells, empty, shown = [], [], ("min_cosine", "p1_cosine", "mean_cosine")
    for case in dict.fromkeys(row.case for row in rows):
        by_figure = {row.figure: row for row in rows if row.case == case}
        first = next(iter(by_figure.values()))
        if first.value is None:
            empty.append(f"{first.engine}  {first.tower}  {first.status}: {first.note}")
            continue
        cosines = [f"{by_figure[name].value:.6f}" for name in shown]
        agreement = _percent(by_figure["top1_agreement"]) if "top1_agreement" in by_figure else "-"
        error = f"{by_figure['max_abs_error'].value:.1e}"
        cells.append((first.engine, first.tower, *cosines, error, agreement, str(first.repeats)))
    figures = (*shown, "max_abs_error", "top1_agreement")
    header = ("engine", "tower", *map(short_label, figures), "samples")
    return "\n".join([*([format_table(header, cells)] if cells else []), *empty])


def _accuracy_table(rows: Sequence[Row]) -> str:
    """Engines side by side: there are more figures than engines."""
    figures = list(dict.fromkeys(row.figure for row in rows if row.value is not None))
    engines = list(dict.fromkeys(row.engine for row in rows if row.value is not None))
    by_key = {(row.figure, row.engine): row for row in rows}
    cells = [
        (
            short_label(name),
            *(_percent(by_key[name, engine]) if (name, engine) in by_key else "" for engine in engines),
            str(max(row.repeats for row in rows if row.figure == name)),
        )
        for name in figures
    ]
    lines = [format_table(("", *engines, "samples"), cells)] if cells else []
    empty = dict.fromkeys((row.engine, f"{row.status}: {row.note}") for row in rows if row.value is None)
    return "\n".join([*lines, *("  ".join(pair) for pair in empty)])


def _percent(row: Row) -> str:
    assert row.value is not None
    if row.low is None or row.high is None:
        return f"{row.value:.1%}"
    sign = "+" if FIGURES[row.figure].form == "change" else ""
    digits = 2 if sign else 1
    value, low, high = (f"{number * 100:{sign}.{digits}f}" for number in (row.value, row.low, row.high))
    return f"{value} % [{low}, {high}]"
