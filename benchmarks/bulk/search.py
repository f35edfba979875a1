"""The time of a search in a folder of random embeddings."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.records.estimates import Estimate, estimate
from engines.bulk.description import FILE_NAME, JobDescription
from engines.bulk.layouts import LayoutName, Rows, ShardRecord
from engines.files.output_folder import output_folder
from engines.search import Index

WIDTH = 512
_SHARD_ROWS = 10_000
_CALLS = 15


@dataclass(frozen=True)
class SearchTime:
    """One measurement.

    Attributes:
        figure: ``load`` (seconds to read all embeddings) or ``p50`` (milliseconds of a search).
        shape: rows, width, layout, queries.
        value: the estimate.
    """

    figure: str
    shape: str
    value: Estimate


def write_random(place: Path, rows: int, layout: LayoutName) -> None:
    """Write random embeddings of unit length, by the code that jobs use, unless they are there already."""
    folder = output_folder(str(place))
    description = JobDescription("", "", "random", ("image",), layout, "float16", WIDTH)
    data = json.dumps(asdict(description)).encode()
    if folder.read(FILE_NAME) == data:
        return
    made, rng = description.make_layout(), np.random.default_rng(0)
    for shard, start in enumerate(range(0, rows, _SHARD_ROWS)):
        count = min(_SHARD_ROWS, rows - start)
        vectors = rng.standard_normal((count, WIDTH), dtype=np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        keys = [f"{start + i:09d}" for i in range(count)]
        texts: list[str | None] = [f"caption {key}" for key in keys]
        writer = made.write(folder, f"{shard:05d}")
        nothing: list[str | None] = [None] * count
        writer.add(Rows(keys, nothing, texts, nothing, {"image": vectors}, {"image": np.ones(count, bool)}))
        writer.publish(ShardRecord(f"{shard}", "", "tar", count, 0, None, 0, {}))
    folder.write(FILE_NAME, data)


def measure_search(place: Path, rows: int, layout: LayoutName) -> list[SearchTime]:
    """Time to load the embeddings, and of searches with one and with eight queries, in this process."""
    began = time.perf_counter()
    index = Index.load(place)
    loaded = time.perf_counter() - began
    assert index.rows == rows
    rng, shape = np.random.default_rng(1), f"{rows:,} x {WIDTH} float16, {layout}"
    found = [SearchTime("load", shape, estimate([loaded]))]
    for count in (1, 8):
        queries = rng.standard_normal((count, WIDTH), dtype=np.float32)
        queries /= np.linalg.norm(queries, axis=1, keepdims=True)
        taken = []
        for call in range(_CALLS + 1):
            began = time.perf_counter()
            index.search(queries, 20)
            if call:  # the first warms up
                taken.append(1e3 * (time.perf_counter() - began))
        found.append(
            SearchTime("p50", f"{shape}, {count} queries" if count > 1 else f"{shape}, 1 query", estimate(taken))
        )
    return found
