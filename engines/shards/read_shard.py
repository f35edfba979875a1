"""The samples of an input shard of any kind."""

from __future__ import annotations

from collections.abc import Iterator

from engines.shards.input_shards import InputShard
from engines.shards.local_paths import local_path
from engines.shards.read_parquet import read_parquet
from engines.shards.read_tar import read_tar
from engines.shards.samples import Columns, ReaderNotes, Sample


def read_samples(shard: InputShard, notes: ReaderNotes, columns: Columns, towers: tuple[str, ...]) -> Iterator[Sample]:
    """The samples of a shard in their order.

    Args:
        shard: the shard.
        notes: receives what is noticed about the shard as a whole.
        columns: names of columns in parquet files.
        towers: the towers of the job.

    Raises:
        InputError: the shard cannot be read at all.
    """
    if shard.kind == "tar":
        return read_tar(shard.source, notes)
    if shard.kind == "parquet":
        return read_parquet(shard.source, notes, columns, towers)
    return read_files(shard.items, notes) if shard.kind == "files" else read_texts(shard.items, shard.first)


def read_files(files: tuple[str, ...], notes: ReaderNotes) -> Iterator[Sample]:
    """A sample for each image file: its path, or its line of a list, is its key and its url. It is opened when it is decoded."""
    for file in files:
        name = file.encode("utf-8", "backslashreplace").decode()
        path, problem = local_path(file)
        notes.count_key(name)
        yield Sample(name, url=name, image=path, problem=problem)


def read_texts(lines: tuple[str, ...], first: int) -> Iterator[Sample]:
    """A sample for each text: its key is the number of its line, from 0.

    Args:
        lines: the texts.
        first: number of the first of them.
    """
    for number, line in enumerate(lines, first):
        yield Sample(f"{number:08d}", caption=line.encode("utf-8", "replace").decode())
