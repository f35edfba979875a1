"""One schema for every figure that is measured: a row is one figure of one thing on one machine.

Facts of an export, of a tower or of a compiled kernel are no such figures: `benchmarks.records.table_files` has their tables.
Rows live in ``benchmarks/results/<machine>/<what>.csv`` and are replaced by key. Tables, plots and comparisons are made of them and
of nothing else. The module needs nothing but the standard library (parquet: pyarrow), so that it runs on a bare PyTorch image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from benchmarks.records.csv_file import read_rows, upsert
from benchmarks.records.figures import FIGURES

Status = Literal["ok", "noisy", "missing", "failed"]


@dataclass(frozen=True)
class Row:
    """One figure.

    The key is `what`, `model`, `tower`, `engine`, `precision`, `batch`, `shape` and `figure`: a newer row with the same key takes
    the older one's place.

    Attributes:
        what: the kind of measurement and the name of the file: throughput, latency, start, end_to_end, export, overhead, parity,
            zero_shot, retrieval, ceiling, kernel, gemm (the vendor's product of a tower's shape), package (one AOTInductor package,
            without the rest of a bundle), cpp (Python and C++ on one bundle), decode (files to pixels), peers (other libraries that
            serve CLIP), bulk (jobs over shards), fact (of the machine), tests.
        model: the architecture, or ``demo``; the operation of a ceiling, gemm or kernel; the name of a fact.
        tower: ``image``, ``text`` or empty.
        engine: the engine or peer: ``eager``, ``torch.compile``, ``onnxruntime``, ….
        precision: ``fp32``, ``fp16``, ….
        batch: rows in one call; 0 where there is no batch.
        shape: the shape of one row, in words: ``224x224``, ``77 tokens``, ``real captions``, ``8192x8192x8192``.
        figure: a name of `benchmarks.records.figures.FIGURES`.
        value: the median over the repeats, or the estimate; None where nothing could be measured, and `status` says why.
        low, high: the lowest and the highest pass's median; the quartiles over the rounds of a single pass; the ends of an
            accuracy's 95 % confidence interval.
        unit: the unit of value, low and high.
        repeats: rounds, or samples of an accuracy.
        by_pass: the medians of the passes in which the repeats were made, each with processes of its own; empty: there are none, or
            they are not known, as in older rows.
        status: ``ok``; ``noisy``: low and high are more than 10 % of the median apart; ``missing``: a library, a GPU or weights
            are not there; ``failed``: it crashed. `note` has the reason.
        note: a remark for readers, in a few words.
        weights: ``random`` where speed was measured without trained weights, else their origin.
        threads: CPU threads of the process that computed.
        clock_mhz: clock of the processor that computed, at the end.
        machine: the machine's name, cores or memory.
        versions: names and versions of the libraries that computed.
        commit: this repository's commit, with ``+`` if files were changed.
        date: the time in UTC, ISO 8601.
    """

    what: str
    model: str
    figure: str
    tower: str = ""
    engine: str = ""
    precision: str = ""
    batch: int = 0
    shape: str = ""
    value: float | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""
    repeats: int = 0
    status: Status = "ok"
    note: str = ""
    weights: str = ""
    threads: int = 0
    clock_mhz: int = 0
    machine: str = ""
    versions: str = ""
    commit: str = ""
    date: str = ""
    by_pass: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.figure not in FIGURES:
            raise ValueError(f"figure {self.figure!r} is none of {', '.join(FIGURES)}")
        if self.value is None and self.status not in ("missing", "failed"):
            raise ValueError(f"a row of {self.figure} without a value must say why: status is {self.status}")

    @property
    def key(self) -> tuple[str, ...]:
        """The columns in which rows of the same measurement agree."""
        return tuple(str(getattr(self, name)) for name in KEY)

    @property
    def case(self) -> tuple[str, ...]:
        """The key without the figure: all figures of one case were measured together."""
        return self.key[:-1]


KEY = ("what", "model", "tower", "engine", "precision", "batch", "shape", "figure")
COLUMNS = (*KEY, *(field.name for field in dataclasses.fields(Row) if field.name not in KEY))
_INTEGERS = ("batch", "repeats", "threads", "clock_mhz")
_FLOATS = ("value", "low", "high")
_LATER = ("by_pass",)  # columns that older files lack


def read(path: Path) -> list[Row]:
    """All rows of a CSV file, a parquet file, or of every ``<what>.csv`` in a machine's folder.

    Raises:
        ValueError: a file has other columns or values than this schema.
    """
    if path.is_dir():
        return [row for file in sorted(path.glob("*.csv")) for row in read(file)]
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return [
            _from_strings({k: "" if v is None else str(v) for k, v in record.items()}, path)
            for record in pyarrow.parquet.read_table(path).to_pylist()
        ]
    return [_from_strings(record, path) for record in read_rows(path)]


def merge(folder: Path, rows: Iterable[Row], whole_cases: bool = False) -> None:
    """Upsert rows into ``<folder>/<what>.csv``, each file replaced in one step.

    Args:
        folder: a machine's folder.
        rows: new rows.
        whole_cases: `rows` hold all figures of their cases (`Row.case`): older ones of other figures go, so that a case that fails
            now does not keep the speedup that it had.
    """
    by_file: dict[str, list[Row]] = {}
    for row in rows:
        by_file.setdefault(row.what, []).append(row)
    for what, group in by_file.items():
        replaced = KEY[:-1] if whole_cases else ()
        upsert(folder / f"{what}.csv", [_to_strings(row) for row in group], COLUMNS, KEY, replaced)


def write_parquet(path: Path, rows: Sequence[Row]) -> None:
    """All rows as one parquet file with typed columns."""
    import pyarrow
    import pyarrow.parquet

    records = [{name: getattr(row, name) for name in COLUMNS} | {"by_pass": _words(row.by_pass)} for row in rows]
    kinds = {name: pyarrow.int64() for name in _INTEGERS} | {name: pyarrow.float64() for name in _FLOATS}
    schema = pyarrow.schema([(name, kinds.get(name, pyarrow.string())) for name in COLUMNS])
    temporary = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records, schema=schema), temporary)
    temporary.replace(path)


def select(rows: Iterable[Row], **wanted: object) -> Iterator[Row]:
    """Rows whose columns have these values."""
    return (row for row in rows if all(getattr(row, name) == value for name, value in wanted.items()))


def _to_strings(row: Row) -> dict[str, str]:
    record = {name: getattr(row, name) for name in COLUMNS}
    record |= {name: "" if record[name] is None else f"{record[name]:.6g}" for name in _FLOATS}
    return record | {"by_pass": _words(row.by_pass)}


def _words(values: Iterable[float]) -> str:
    return " ".join(f"{value:.6g}" for value in values)


def _from_strings(record: dict[str, str], path: Path) -> Row:
    record = dict.fromkeys(_LATER, "") | record
    missing = [name for name in COLUMNS if name not in record]
    if missing:
        raise ValueError(f"{path} is no file of rows: it lacks the column {missing[0]}")
    values: dict[str, object] = {name: record[name] for name in COLUMNS}
    try:
        values |= {name: int(record[name] or 0) for name in _INTEGERS}
        values |= {name: float(record[name]) if record[name] else None for name in _FLOATS}
        values["by_pass"] = tuple(float(word) for word in record["by_pass"].split())
        return Row(**values)  # type: ignore[arg-type]
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
