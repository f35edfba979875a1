"""The samples of shards that were cut from folders, lists of files and files of texts."""

from __future__ import annotations

from collections.abc import Iterator

from engines.bulk.samples import Sample


def read_files(files: tuple[str, ...]) -> Iterator[Sample]:
    """A sample for each image file: its path is its key and its url. The file is opened only when it is decoded."""
    for file in files:
        name = file.encode("utf-8", "backslashreplace").decode()
        yield Sample(name, url=name, image=file)


def read_texts(lines: tuple[str, ...], first: int) -> Iterator[Sample]:
    """A sample for each text: its key is the number of its line, from 0.

    Args:
        lines: the texts.
        first: number of the first of them.
    """
    for number, line in enumerate(lines, first):
        yield Sample(f"{number:08d}", caption=line.encode("utf-8", "replace").decode())
