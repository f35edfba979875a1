"""The opening of a dataset of any kind from its path."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.errors import InputError
from exporter.datasets.data import Dataset, parse_templates
from exporter.datasets.folders import open_folder
from exporter.datasets.shards import find_shards, open_shards


def open_dataset(
    path: Path, split: str = "test", templates: Sequence[str] | None = None, limit: int | None = None
) -> Dataset:
    """Open a labelled folder or webdataset; see `exporter.datasets` for the layouts.

    Args:
        path: a folder or a ``.tar``.
        split: the folder with the archives in clip-benchmark's layout.
        templates: prompts in place of the dataset's own.
        limit: the largest number of pictures: from folders evenly spaced, from archives the first; None: all.

    Raises:
        InputError: the path does not exist, it has no labels, a class has no picture, there is one class only, or a file in it is
            damaged.
    """
    if limit is not None and limit < 2:
        raise InputError(f"a limit of {limit} pictures is too small: pass 2 or more")
    if not path.exists():
        raise InputError(f"dataset {path} is not there")
    prompts = parse_templates(templates, "--template") if templates else None
    shards = find_shards(path, split)
    return open_shards(path, shards, prompts, limit) if shards else open_folder(path, prompts, limit)
