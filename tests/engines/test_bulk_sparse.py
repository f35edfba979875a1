"""Few rows wait for the image tower among many that do not: the others are not held in memory until a batch is full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from made_shards import jpeg

import engines
from engines.bulk import pipeline
from engines.bulk.layouts import Rows, ShardRecord
from engines.bulk.pipeline import embed_shards
from engines.bulk.read_ahead import ShardTask
from engines.shards.input_shards import InputShard
from engines.shards.samples import ReaderNotes, Sample

SHARDS, ROWS = 12, 500


class Writer:
    """Keeps the keys of its rows."""

    several_files = False

    def __init__(self) -> None:
        self.keys: list[str] = []

    def add(self, rows: Rows) -> None:
        self.keys += rows.keys

    def publish(self, record: ShardRecord) -> None:
        assert record.rows == len(self.keys)

    def abandon(self) -> None:
        self.keys.clear()


@pytest.mark.parametrize("first_waits", [True, False])
def test_shards_of_which_one_row_or_none_is_made_again(
    first_waits: bool, demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    writers = [Writer() for _ in range(SHARDS)]
    monkeypatch.setattr(pipeline, "_MOST_QUEUED", 2 * ROWS)
    with engines.load(demo_bundle, towers=("image",)) as clip:
        earlier = {"image": np.ones(clip.manifest.model.embed_dim, np.float32)}

        def read(shard: int, notes: ReaderNotes) -> Iterator[Sample]:
            drawn.append(shard)
            for row in range(ROWS):
                if first_waits and row == 0:
                    yield Sample(f"{shard} {row}", image=jpeg(shard))
                else:
                    yield Sample(f"{shard} {row}", earlier=earlier)

        def tasks() -> Iterator[ShardTask]:
            for i in range(SHARDS):
                yield ShardTask(
                    InputShard(str(i), "tar", ""), "", lambda notes, i=i: read(i, notes), lambda i=i: writers[i]
                )

        ahead = []
        for number, finished in enumerate(embed_shards(clip, ("image",), tasks())):
            assert finished.task.shard.name == str(number)
            ahead.append(len(drawn) - number)
    assert [writer.keys for writer in writers] == [[f"{i} {row}" for row in range(ROWS)] for i in range(SHARDS)]
    assert max(ahead) <= 5, "shards that are read but not yet written"
