"""Tables whose rows are not those of `benchmarks.records.rows`: their files, columns and keys.

A row of `rows` is one figure with its interval, measured on a machine that the row names. A row here is a whole export, tower or
compiled kernel, which has a dozen facts at once, is the same on every machine, and has no repeats that an interval could be of.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records.csv_file import read_rows, upsert


@dataclass(frozen=True)
class TableFile:
    """One CSV file with columns of its own.

    Attributes:
        name: the file's name in the folder of results.
        columns: all columns, in order.
        key: columns that name a row; a newer row with the same key takes the older one's place.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]

    def upsert(self, path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
        """Merge rows into the file; see `benchmarks.records.csv_file.upsert`."""
        upsert(path, rows, self.columns, self.key)

    def done(self, path: Path) -> set[tuple[str, ...]]:
        """The keys of the file's rows whose ``status`` is ``ok``."""
        return {tuple(row[name] for name in self.key) for row in read_rows(path) if row["status"] == "ok"}


# An architecture's tower as ONNX graph, exported with random weights (`benchmarks.zoo`).
ZOO = TableFile(
    "zoo.csv",
    columns=(
        "model",
        "tower",
        "precision",
        "status",
        "seconds",
        "peak_memory_mb",
        "weights_fp32_mb",
        "file_mb",
        "nodes",
        "attention_nodes",
        "fp32_units",
        "samples",
        "max_abs_error",
        "min_cosine",
        "versions",
        "commit",
    ),
    key=("model", "tower", "precision"),
)
# The engines that were built from those graphs, for each target.
ZOO_ENGINES = TableFile(
    "zoo_engines.csv",
    columns=(
        "model",
        "tower",
        "precision",
        "engine",
        "target",
        "status",
        "seconds",
        "peak_memory_mb",
        "weights_mb",
        "file_mb",
        "fused_attention",
        "decomposed_attention",
        "versions",
        "commit",
    ),
    key=("model", "tower", "precision", "engine", "target"),
)
# GPUs whose rates are predicted, by their names in `benchmarks.workloads.gpus`.
PREDICTED = ("A100 80GB", "H100", "H200")
# A tower's work, counted without computing anything (`benchmarks.roofline`).
ROOFLINE = TableFile(
    "roofline.csv",
    columns=(
        "model",
        "tower",
        "tokens",
        "gflops",
        "weights_mb",
        "activations_mb",
        "batch",
        *(f"predicted_per_s_{name}" for name in PREDICTED),
        "versions",
        "commit",
    ),
    key=("model", "tower"),
)
# A kernel as it was compiled for a GPU that need not be there (`benchmarks.kernels_static`).
KERNELS_STATIC = TableFile(
    "kernels_static.csv",
    columns=(
        "kernel",
        "case",
        "arch",
        "dtype",
        "registers",
        "spills",
        "shared_bytes",
        "occupancy",
        "triton",
        "commit",
    ),
    key=("kernel", "case", "arch"),
)
