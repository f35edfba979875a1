"""Rows of one machine → the sections of its report: tables of strings, which Markdown and HTML show alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from benchmarks.records.figures import FIGURES, label
from benchmarks.records.rows import Row
from benchmarks.reporting import styles

NOISY = "†"
NOISY_LEGEND = (
    f"{NOISY} noisy: the passes (of a single one, the quartiles of its rounds) are more than 10 % of the median apart."
)
_OPERATIONS = ("ceiling", "kernel", "gemm", "fact")  # their rows are of one operation, and their notes are its sizes
_TITLES = {
    "latency": "Latency, one item at a time",
    "export": "Export, and start of a serving process",
    "start": "Start-up and memory",
    "end_to_end": "End to end: files on disk to embeddings",
    "cpp": "C++ and Python on one bundle (speedups over Python)",
    "decode": "JPEG files to pixels (speedups over Pillow)",
    "parity": "Parity with eager fp32",
    "zero_shot": "Zero-shot classification",
    "retrieval": "Retrieval",
    "ceiling": "Ceilings of this machine",
    "overhead": "What the harness costs per call",
    "kernel": "Kernels (speedups over native: what PyTorch's compiler puts in the place)",
    "gemm": "Matrix products at a tower's shapes",
    "package": "Single AOTInductor packages",
    "tests": "Tests that need a GPU",
    "fact": "The machine",
}


@dataclass(frozen=True)
class Table:
    """A table of strings.

    Attributes:
        title: text above the table; may be empty.
        header: one name for each column.
        lines: the cells.
        texts: number of columns from the left that are words; the others are numbers.
        best: (line, column) of cells in bold.
        notes: sentences under the table.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    texts: int = 1
    best: frozenset[tuple[int, int]] = frozenset()
    notes: Sequence[str] = field(default=())


@dataclass(frozen=True)
class Section:
    """A heading with tables; `name` is its rows' kind of measurement, and its anchor."""

    name: str
    title: str
    tables: Sequence[Table]


def sections(rows: Sequence[Row]) -> list[Section]:
    """One section for each kind of measurement on one machine that has rows, and at the end what is missing."""
    all_sections = []
    throughput = throughput_tables([row for row in rows if row.what == "throughput"])
    if throughput:
        all_sections.append(Section("throughput", "Throughput", throughput))
    others = [*_TITLES, *sorted({row.what for row in rows} - {"throughput", *_TITLES})]
    for what in others:
        group = [row for row in rows if row.what == what]
        if group:
            all_sections.append(Section(what, _TITLES.get(what, what), flat_tables(group)))
    remarks = remarks_table(rows)
    if remarks is not None:
        all_sections.append(Section("remarks", "Not measured, and remarks", [remarks]))
    return all_sections


def throughput_tables(rows: Sequence[Row]) -> list[Table]:
    """One table for each model, tower and shape: engines below each other, a column for each batch."""
    tables = []
    for model, tower, shape in sorted({(row.model, row.tower, row.shape) for row in rows}):
        group = [row for row in rows if (row.model, row.tower, row.shape) == (model, tower, shape)]
        tables.append(_throughput_table(f"{model}, {tower} tower, {shape}", f"{tower or 'item'}s", group))
    return tables


def _throughput_table(title: str, items: str, rows: Sequence[Row]) -> Table:
    by_key = {(row.engine, row.precision, row.batch, row.figure): row for row in rows}
    measured = [row for row in rows if row.value is not None]
    batches = sorted({row.batch for row in measured or rows})
    extras = [f for f in ("tflops", "fraction_of_ceiling", "joules_per_item") if any(r.figure == f for r in measured)]
    lines, speeds = [], []
    for engine, precision in sorted(
        {(row.engine, row.precision) for row in rows}, key=lambda pair: styles.order(*pair)
    ):
        line = [by_key.get((engine, precision, batch, "per_second")) for batch in batches]
        if not any(line):  # it has rows, but of other batches than those that could be measured
            first = next(r for r in rows if (r.engine, r.precision) == (engine, precision))
            line[0] = first
        cells = []
        for batch, row in zip(batches, line, strict=True):
            ratio = by_key.get((engine, precision, batch, "speedup"))
            text = "–" if row is None else cell(row)
            if row is not None and row.value is not None and ratio is not None and ratio.value is not None:
                text += f" ({cell(ratio)})"
            cells.append(text)
        speeds.append([row.value if row is not None and row.figure == "per_second" else None for row in line])
        rated = [(value, batch) for value, batch in zip(speeds[-1], batches, strict=True) if value is not None]
        top = max(rated)[1] if rated else None
        cells += [_cell_or_dash(by_key.get((engine, precision, top or 0, extra))) for extra in extras]
        lines.append([engine, precision, *cells])
    best = set()
    for column in range(len(batches)):
        values = [speed[column] or 0.0 for speed in speeds]
        fastest = values.index(max(values))
        if sum(value > 0 for value in values) > 1 and NOISY not in lines[fastest][column + 2].split(" (")[0]:
            best.add((fastest, column + 2))
    notes = [f"{items.capitalize()} per second, in brackets the speedup over eager fp32; medians{_spread(measured)}."]
    if extras:
        notes.append("The columns after the batches are those of the engine's fastest batch.")
    header = ["engine", "precision", *(f"batch {batch}" for batch in batches), *(label(extra) for extra in extras)]
    return Table(title, header, lines, 2, frozenset(best), [*notes, *_noise_note(rows)])


def flat_tables(rows: Sequence[Row]) -> list[Table]:
    """One table for each model, tower and shape, with a line for each engine; all operations in one."""
    if all(row.what in _OPERATIONS for row in rows):
        return [_flat_table("", ("model", "engine", "precision", "batch", "shape", "note"), rows)]
    return [
        _flat_table(
            ", ".join(part for part in (model, f"{tower} tower" if tower else "", shape) if part),
            ("engine", "precision", "batch"),
            [row for row in rows if (row.model, row.tower, row.shape) == (model, tower, shape)],
        )
        for model, tower, shape in sorted({(row.model, row.tower, row.shape) for row in rows})
    ]


def _flat_table(title: str, names: Sequence[str], rows: Sequence[Row]) -> Table:
    """A table with a line for each case, a column for each name that differs or is not empty, and one for each figure."""
    figures = [name for name in FIGURES if any(row.figure == name for row in rows)]
    used = [name for name in names if {getattr(row, name) for row in rows} - {"", 0, *([1] if name == "batch" else ())}]
    cases: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in sorted(rows, key=lambda r: (r.model, r.shape, r.batch, *styles.order(r.engine, r.precision))):
        cases.setdefault(row.case, {})[row.figure] = row
    lines = []
    for by_figure in cases.values():
        one = next(iter(by_figure.values()))
        words = ["–" if getattr(one, name) in ("", 0) else str(getattr(one, name)) for name in used]
        lines.append([*words, *(_cell_or_dash(by_figure.get(figure)) for figure in figures)])
    header = ["operation" if name == "model" else name for name in used]
    notes = []
    if any(FIGURES[row.figure].is_share and row.low is not None for row in rows):
        notes.append("In brackets the 95 % confidence interval.")
    return Table(title, [*header, *(label(f) for f in figures)], lines, len(used), notes=[*notes, *_noise_note(rows)])


def remarks_table(rows: Sequence[Row]) -> Table | None:
    """A table of missing and failed cases with their reasons, and of remarks on others; None if there are none."""
    by_subject: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        remark = row.note or ("no reason was written down" if row.value is None else "")
        if remark and (row.value is None or row.what not in _OPERATIONS):
            status = row.status if row.value is None else "measured"
            subject = (status, f"{row.engine} {row.precision}".strip() or "–", row.model, remark)
            where = f"{row.what} {row.tower}".strip()
            by_subject.setdefault(subject, [])
            if where not in by_subject[subject]:
                by_subject[subject].append(where)
    if not by_subject:
        return None
    place = {"failed": 0, "missing": 1}
    ordered = sorted(by_subject.items(), key=lambda item: (place.get(item[0][0], 2), item[0]))
    lines = [[status, engine, model, ", ".join(w), remark] for (status, engine, model, remark), w in ordered]
    return Table("", ["status", "engine", "model", "of", "remark"], lines, texts=5)


def measured_on(rows: Iterable[Row]) -> str:
    """ "AMD EPYC, 2 cores; torch 2.15.0, onnxruntime 1.32.0; 2 threads; 2 August 2026; commit 11e1a18"."""
    rows = [row for row in rows if row.value is not None]
    parts = [
        " and ".join(_distinct(row.machine for row in rows)),
        ", ".join(_distinct(v for row in rows for v in re.findall(r"\S+ \d\S*", row.versions) or [row.versions])),
        _threads(rows),
        _range(row.date[:10] for row in rows),
        "commit " + ", ".join(_distinct(row.commit for row in rows)) if any(row.commit for row in rows) else "",
    ]
    if any(row.weights == "random" for row in rows):
        models = _distinct(row.model for row in rows if row.weights == "random")
        parts.append(f"random weights: {', '.join(models)}")
    return "; ".join(part for part in parts if part)


def cell(row: Row) -> str:
    """The value as people read it, with its interval if it is an accuracy, and the sign of noise; else the status."""
    if row.value is None:
        return row.status
    text = number(row.value, row.figure)
    if FIGURES[row.figure].is_share and row.low is not None and row.high is not None:
        low, high = (number(value, row.figure).removesuffix(" %") for value in (row.low, row.high))
        text += f" [{low}, {high}]"
    return text + (f" {NOISY}" if row.status == "noisy" else "")


def number(value: float, figure: str) -> str:
    """Three significant digits; cosines with the six that a row has; shares in percent."""
    form = FIGURES[figure].form
    if form == "cosine":
        return f"{value:.6f}"
    if form == "change":
        return f"{round(100 * value, 2) + 0.0:+.2f} %"
    if form in ("percent", "share"):
        return f"{100 * value:.1f} %"
    if form == "error":
        return f"{value:.1e}"
    unit = "×" if form == "ratio" else ""
    if abs(value) >= 100:
        return f"{value:,.0f}{unit}"
    digits = f"{value:.3g}"
    if "e" in digits:
        return digits + unit
    missing = 3 - len(digits.replace(".", "").lstrip("0")) if value else 0  # 1 → 1.00, so that columns line up
    if missing > 0:
        digits = (digits if "." in digits else digits + ".") + "0" * missing
    return digits + unit


def _cell_or_dash(row: Row | None) -> str:
    return "–" if row is None else cell(row)


def _noise_note(rows: Iterable[Row]) -> list[str]:
    return [NOISY_LEGEND] if any(row.status == "noisy" and row.value is not None for row in rows) else []


def _spread(rows: Iterable[Row]) -> str:
    """ ", passes at most 3 % apart" over the speedups that are not marked as noisy."""
    apart = [
        (row.high - row.low) / row.value
        for row in rows
        if row.status == "ok" and row.figure in ("speedup", "per_second") and row.value and row.low and row.high
    ]
    return f", passes at most {100 * max(apart):.1f} % apart where not marked" if apart and max(apart) > 0 else ""


def _distinct(values: Iterable[str]) -> list[str]:
    return [value for value in dict.fromkeys(values) if value]


def _threads(rows: Sequence[Row]) -> str:
    counts = sorted({row.threads for row in rows if row.threads})
    return f"{' and '.join(map(str, counts))} thread{'s' if counts != [1] else ''}" if counts else ""


def _range(values: Iterable[str]) -> str:
    ordered = sorted(filter(None, values))
    if not ordered:
        return ""
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"
