"""Compact tables of the machines' rows for the documentation: speed of all engines side by side, and their accuracy."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from benchmarks.records import rows
from benchmarks.records.figures import FIGURES, label
from benchmarks.records.languages import engine_label, split_label
from benchmarks.records.rows import Row
from benchmarks.reporting import styles
from benchmarks.reporting.markdown import markdown_table
from benchmarks.reporting.report_tables import NOISY, NOISY_LEGEND, Table, cell, measured_on

_CPU = re.compile(r", \d+ cores$")  # as `benchmarks.records.machine` names processors
_BENCH_MODELS = ("demo", "ViT-B-32")
_STARTS = {
    "first_text": "start to first text, s",
    "first_image": "…and first image, s",
    "host_memory": "resident memory then, MB",
    "peak_host_memory": "its peak, MB",
}
_ACCURACIES = ("top1", "top1_change", "image_to_text_recall_1", "text_to_image_recall_1")
NO_CPU = "No CPU has been measured yet: `make bench` does it."
NO_CPP = "Not measured yet: `python -m benchmarks cpp` does it."
NO_COLD_START = "Not measured yet: `make cold-start` does it."
NO_INT8 = "No CPU has been measured with int8 yet: `make bench-int8` does it."
NO_GPU = "No GPU has been measured yet: `make gpu` on a machine with one writes its rows."
NO_PARITY = "No accuracy has been measured yet: `python -m benchmarks parity BUNDLE` does it."


def bench_table(results: Path) -> str:
    """Speed on each measured CPU: the demo and ViT-B-32, the smallest and the largest batch."""
    tables = []
    for machine, machine_rows in _machines(results, gpu=False):
        chosen = [row for row in machine_rows if row.what == "throughput" and row.model in _BENCH_MODELS]
        if chosen:
            tables.append(_with_place(machine, speed_matrix(chosen, every_batch=False), chosen))
    return "\n\n".join(tables) or NO_CPU


def int8_table(results: Path) -> str:
    """Speed of int8 bundles on each measured CPU, next to eager float32 and to the peer that quantizes for itself."""
    tables = []
    for machine, machine_rows in _machines(results, gpu=False, folder="int8"):
        chosen = [row for row in machine_rows if row.what == "throughput"]
        if chosen:
            tables.append(_with_place(machine, speed_matrix(chosen, every_batch=True), chosen))
    return "\n\n".join(tables) or NO_INT8


def gpu_table(results: Path) -> str:
    """Speed on each measured GPU: every model and batch, texts of real length."""
    tables = []
    for machine, machine_rows in _machines(results, gpu=True):
        chosen = [row for row in machine_rows if row.what == "throughput"]
        if chosen:
            tables.append(_with_place(machine, speed_matrix(chosen, every_batch=True), chosen))
    return "\n\n".join(tables) or NO_GPU


def parity_table(results: Path) -> str:
    """Distance from eager float32, zero-shot accuracy and recall on every measured machine."""
    tables = []
    for machine, machine_rows in [*_machines(results, gpu=False), *_machines(results, gpu=True)]:
        parity = [row for row in machine_rows if row.what == "parity"]
        accuracy = [row for row in machine_rows if row.what in ("zero_shot", "retrieval")]
        parts = [*([_parity(parity)] if parity else []), *([_accuracy(accuracy)] if accuracy else [])]
        if parts:
            tables.append(_with_place(machine, "\n\n".join(parts), [*parity, *accuracy]))
    return "\n\n".join(tables) or NO_PARITY


def cold_start_table(results: Path) -> str:
    """The cost before the first embedding, on every measured machine."""
    tables = []
    for machine, machine_rows in _machines(results, gpu=False):
        chosen = [row for row in machine_rows if row.what == "export"]
        if not chosen:
            continue
        figures = sorted({row.figure for row in chosen}, key=list(FIGURES).index)
        exports: dict[tuple[str, str, str], dict[str, Row]] = {}
        for row in sorted(chosen, key=lambda r: (_place((r.model, "", "")), r.precision, r.engine)):
            exports.setdefault((row.model, row.precision, row.engine), {})[row.figure] = row
        lines = [
            [*names, *(_cell(by_figure.get(figure)) for figure in figures)] for names, by_figure in exports.items()
        ]
        header = ["model", "precision", "engines", *map(label, figures)]
        tables.append(_with_place(machine, markdown_table(Table("", header, lines, 3)), chosen))
    return "\n\n".join(tables) or NO_COLD_START


def cpp_table(results: Path) -> str:
    """The Python runtime and the C++ library on every measured CPU: calls, then starts and memory."""
    tables = []
    for machine, machine_rows in _machines(results, gpu=False):
        chosen = [row for row in machine_rows if row.what == "cpp"]
        measured = [row for row in chosen if row.value is not None]
        if measured:
            missing = _not_measured(chosen, [(row.engine, row.precision) for row in measured])
            parts = [_cpp_calls(measured), _cpp_starts(measured), *missing]
            tables.append(_with_place(machine, "\n\n".join(filter(None, parts)), measured))
    return "\n\n".join(tables) or NO_CPP


def measured_tables(results: Path, what: str, table: Callable[[Sequence[Row]], str]) -> str:
    """A table of each CPU's rows of one kind, with the place of the measurement; empty where nothing was measured.

    Args:
        results: the folder with the machines' folders.
        what: the kind of measurement, as in `Row.what`.
        table: makes the table of a machine's rows.
    """
    tables = []
    for machine, machine_rows in _machines(results, gpu=False):
        chosen = [row for row in machine_rows if row.what == what]
        if any(row.value is not None for row in chosen):
            measured = [row for row in chosen if row.value is not None]
            tables.append(_with_place(machine, table(chosen), measured))
    return "\n\n".join(tables)


def _cpp_calls(measured: Sequence[Row]) -> str:
    by_key = {(row.model, row.engine, row.tower, row.shape, row.figure): row for row in measured}
    lines = []
    for row in sorted(measured, key=lambda r: (*_place((r.model, r.tower, "")), r.engine, -r.batch)):
        engine, language = split_label(row.engine)
        if row.figure == "per_second" and language == "Python":
            theirs = (row.model, engine_label(engine, "C++"), row.tower, row.shape)
            cells = [_cell(row), *(_cell(by_key.get((*theirs, figure))) for figure in ("per_second", "speedup"))]
            items, callers = row.shape.split(", ")
            lines.append([row.model, engine, items, callers.split(" ")[0], *cells])
    header = ["model", "engine", "of", "callers", "Python, per second", "C++, per second", "C++ / Python"]
    notes = [
        "Callers are threads that embed equal parts of the items at once; medians, and of the ratios round by round."
    ]
    if any(NOISY in cell_text for line in lines for cell_text in line):
        notes.append(NOISY_LEGEND)
    return markdown_table(Table("", header, lines, 3, notes=notes)) if lines else ""


def _cpp_starts(measured: Sequence[Row]) -> str:
    by_key = {(row.model, row.engine, row.figure): row for row in measured}
    lines = []
    for model, label_ in sorted(
        {(row.model, row.engine) for row in measured}, key=lambda pair: _place((pair[0], pair[1], ""))
    ):
        engine, language = split_label(label_)
        for figure, words in _STARTS.items() if language == "Python" else ():
            own, theirs = (by_key.get((model, name, figure)) for name in (engine, engine_label(engine, "C++")))
            ratio = f"{theirs.value / own.value:.2f}×" if own and theirs and own.value and theirs.value else "–"
            lines.append([model, engine, words, _cell(own), _cell(theirs), ratio])
    header = ["model", "engine", "of a fresh process", "Python", "C++", "C++ / Python"]
    return markdown_table(Table("", header, lines, 3)) if lines else ""


def speed_matrix(throughput: Sequence[Row], every_batch: bool) -> str:
    """A line for each model, tower, shape and batch, a column for each engine; the fastest is bold, if it is not noisy.

    Args:
        throughput: rows of throughput.
        every_batch: else the smallest and the largest of each tower.
    """
    by_key = {row.key: row for row in throughput}
    rates = [row for row in throughput if row.figure == "per_second"]
    measured = [row for row in rates if row.value is not None]
    engines = sorted({(row.engine, row.precision) for row in measured}, key=lambda pair: styles.order(*pair))
    precisions = {precision for _, precision in engines}
    cases = []
    for model, tower, shape in sorted({(row.model, row.tower, row.shape) for row in measured}, key=_place):
        batches = sorted({r.batch for r in measured if (r.model, r.tower, r.shape) == (model, tower, shape)})
        cases += [(model, tower, shape, b) for b in (batches if every_batch else sorted({batches[0], batches[-1]}))]
    lines, best = [], set()
    for number, (model, tower, shape, batch) in enumerate(cases):
        line = [model, f"{tower}s" if tower else "items", shape, str(batch)]
        values = []
        for engine, precision in engines:
            key = ("throughput", model, tower, engine, precision, str(batch), shape)
            rate, ratio = by_key.get((*key, "per_second")), by_key.get((*key, "speedup"))
            text = "–" if rate is None else cell(rate)
            if rate is not None and rate.value is not None and ratio is not None and ratio.value is not None:
                text += f" ({cell(ratio)})"
            line.append(text)
            values.append(rate.value or 0.0 if rate is not None else 0.0)
        fastest = 4 + values.index(max(values))
        if sum(value > 0 for value in values) > 1 and NOISY not in line[fastest].split(" (")[0]:
            best.add((number, fastest))
        lines.append(line)
    names = [f"{e} {p}" if len(precisions) > 1 else e for e, p in engines]
    ours = [f"{name} (bundle)" if e in styles.BUNDLED else name for name, (e, _) in zip(names, engines, strict=True)]
    notes = ["Per second, in brackets the speedup over eager fp32; medians."]
    if any(NOISY in text for line in lines for text in line):
        notes.append(NOISY_LEGEND)
    notes += _not_measured(rates, engines)
    return markdown_table(Table("", ["model", "of", "shape", "batch", *ours], lines, 3, frozenset(best), notes))


def _parity(parity: Sequence[Row]) -> str:
    columns: dict[str, Callable[[Mapping[tuple[str, str], Row]], str]] = {
        f"{tower}: min / mean cosine": lambda by_key, tower=tower: (  # type: ignore[misc]
            " / ".join(_cell(by_key.get((tower, figure))) for figure in ("min_cosine", "mean_cosine"))
        )
        for tower in ("image", "text")
    }
    columns["max error, image / text"] = lambda by_key: " / ".join(
        _cell(by_key.get((t, "max_abs_error"))) for t in ("image", "text")
    )
    if any(row.figure == "top1_agreement" for row in parity):
        columns["top-1 as eager"] = lambda by_key: " / ".join(
            _cell(by_key.get((t, "top1_agreement"))) for t in ("image", "text")
        )
    return _by_engine(parity, columns)


def _accuracy(accuracy: Sequence[Row]) -> str:
    figures = [figure for figure in _ACCURACIES if any(row.figure == figure for row in accuracy)]
    columns: dict[str, Callable[[Mapping[tuple[str, str], Row]], str]] = {
        label(figure): lambda by_key, figure=figure: _cell(by_key.get(("", figure)))  # type: ignore[misc]
        for figure in figures
    }
    return _by_engine(accuracy, columns, ["In brackets the 95 % confidence interval."])


def _by_engine(
    table_rows: Sequence[Row],
    columns: Mapping[str, Callable[[Mapping[tuple[str, str], Row]], str]],
    notes: Sequence[str] = (),
) -> str:
    """A line for each model, data set, engine and precision that was measured."""
    cases: dict[tuple[str, ...], dict[tuple[str, str], Row]] = {}
    for row in sorted(
        table_rows, key=lambda r: (*_place((r.model, "", r.shape)), *styles.order(r.engine, r.precision))
    ):
        cases.setdefault((row.model, row.shape, row.engine, row.precision), {})[row.tower, row.figure] = row
    shown = {case: by_key for case, by_key in cases.items() if any(row.value is not None for row in by_key.values())}
    lines = [[*case, *(column(by_key) for column in columns.values())] for case, by_key in shown.items()]
    engines = [(engine, precision) for _, _, engine, precision in shown]
    header = ["model", "data", "engine", "precision", *columns]
    return markdown_table(Table("", header, lines, 4, notes=[*notes, *_not_measured(table_rows, engines)]))


def _cell(row: Row | None) -> str:
    return "–" if row is None else cell(row)


def _not_measured(table_rows: Iterable[Row], engines: Sequence[tuple[str, str]]) -> list[str]:
    """ "Not measured: openvino fp32 (missing: not installed)." """
    reasons = {
        f"{row.engine} {row.precision} ({row.status}: {row.note})"
        for row in table_rows
        if row.value is None and (row.engine, row.precision) not in engines
    }
    return [f"Not measured: {'; '.join(sorted(reasons))}."] if reasons else []


def _place(case: tuple[str, str, str]) -> tuple[int, str, str, str]:
    """Models of the documentation's tables first, in their order."""
    model, tower, shape = case
    return _BENCH_MODELS.index(model) if model in _BENCH_MODELS else len(_BENCH_MODELS), model, tower, shape


def _machines(results: Path, gpu: bool, folder: str = "") -> list[tuple[str, list[Row]]]:
    """Machine → rows of every folder of the kind; of a suite with a folder of its own, those in there."""
    by_machine: dict[str, list[Row]] = {}
    for place in sorted(path / folder for path in results.glob("*/") if any((path / folder).glob("*.csv"))):
        for row in rows.read(place):
            if bool(_CPU.search(row.machine)) != gpu:
                by_machine.setdefault(row.machine, []).append(row)
    return sorted(by_machine.items())


def _with_place(machine: str, table: str, table_rows: Sequence[Row]) -> str:
    return f"{table}\n\nMeasured on {measured_on(table_rows) or machine}."
