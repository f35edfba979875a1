"""Every way into and out of a bulk job, as commands, and whether all of them give the same rows."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.bulk.inputs import BulkInputs

Rows = dict[str, npt.NDArray[np.float16]]


class UnequalError(Exception):
    """Two ways gave different rows."""


@dataclass(frozen=True)
class Way:
    """One way from inputs to embeddings.

    Attributes:
        name: the way in words.
        sources: the arguments that name the inputs.
        options: further arguments; one tuple for each command that runs, one after the other.
        layout: the layout of the output.
    """

    name: str
    sources: tuple[str, ...]
    options: tuple[tuple[str, ...], ...] = ((),)
    layout: str = "parquet"


@dataclass(frozen=True)
class WayResult:
    """What one way gave: `errors` are the keys of rows without an embedding."""

    way: Way
    rows: Rows
    errors: frozenset[str]
    seconds: float


def ways(inputs: BulkInputs, ray: bool) -> list[Way]:
    """All ways; those of Ray only if it is installed."""
    npy = ("--format", "npy")
    found = [
        Way("folder → parquet", (str(inputs.photos),), (("--rows-per-shard", "3000"),)),
        Way("8 tars → parquet", (inputs.tars,)),
        Way("parquet → parquet", (str(inputs.parquet),)),
        Way("folder → npy", (str(inputs.photos),), (npy,), "npy"),
        Way("8 tars → npy", (inputs.tars,), (npy,), "npy"),
        Way("parquet → npy", (str(inputs.parquet),), (npy,), "npy"),
        Way("8 tars in 3 parts → parquet", (inputs.tars,), tuple(("--shard", f"{i}/3") for i in range(3))),
    ]
    if ray:
        found.append(Way("8 tars by Ray → parquet", (inputs.tars,), (("--ray", "local"),)))
    return found


def run_way(way: Way, bundle: Path, out: Path) -> WayResult:
    """Run a way's commands, and read what they wrote.

    Raises:
        UnequalError: a command failed.
    """
    began = time.perf_counter()
    for options in way.options:
        command = [
            sys.executable,
            "-m",
            "engines",
            "embed",
            str(bundle),
            *way.sources,
            "--out",
            str(out),
            "--json",
            *options,
        ]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UnequalError(f"{way.name}: exit code {done.returncode}: {done.stderr.strip() or done.stdout[-500:]}")
    seconds = time.perf_counter() - began
    read = _read_parquet if way.layout == "parquet" else _read_npy
    rows: Rows = {}
    errors: set[str] = set()
    for key, embedding in read(out):
        name = Path(key).stem
        if name in rows or name in errors:
            raise UnequalError(f"{way.name}: the row {name} is there twice")
        if embedding is None:
            errors.add(name)
        else:
            rows[name] = embedding
    return WayResult(way, rows, frozenset(errors), seconds)


def compare(first: WayResult, other: WayResult) -> None:
    """Compare all rows to the bit.

    Raises:
        UnequalError: a row is missing, or differs.
    """
    names = f"{first.way.name} and {other.way.name}"
    if first.rows.keys() != other.rows.keys() or first.errors != other.errors:
        raise UnequalError(f"{names} have other rows: {len(first.rows)} and {len(other.rows)}")
    different = sum(not np.array_equal(row, other.rows[key]) for key, row in first.rows.items())
    if different:
        raise UnequalError(f"{names} differ in {different} of {len(first.rows)} rows")


def _read_parquet(out: Path) -> Iterator[tuple[str, npt.NDArray[np.float16] | None]]:
    import pyarrow.parquet as parquet

    for file in sorted(out.rglob("*.parquet")):
        table = parquet.read_table(file, columns=["key", "embedding", "error"])
        yield from _pairs(table)


def _pairs(table: Any) -> Iterator[tuple[str, npt.NDArray[np.float16] | None]]:
    keys = table.column("key").to_pylist()
    errors = table.column("error").to_pylist()
    for key, embedding, error in zip(keys, table.column("embedding").to_pylist(), errors, strict=True):
        yield key, None if error is not None else np.asarray(embedding, np.float16)


def _read_npy(out: Path) -> Iterator[tuple[str, npt.NDArray[np.float16] | None]]:
    import pyarrow.parquet as parquet

    for file in sorted((out / "metadata").iterdir()):
        shard = file.stem.removeprefix("metadata_")
        embeds = np.load(out / "img_emb" / f"img_emb_{shard}.npy")
        yield from zip(parquet.read_table(file).column("key").to_pylist(), embeds, strict=True)
    for file in sorted((out / "errors").iterdir()) if (out / "errors").exists() else ():
        yield from ((key, None) for key in parquet.read_table(file).column("key").to_pylist())


def summary_of(output: str) -> dict[str, Any]:
    """The last line of a command's ``--json`` output."""
    data: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
    return data
