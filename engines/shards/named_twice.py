"""Inputs that a user named twice, by two spellings of their path or inside one another, and what a folder of tars leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from engines.errors import InputError
from engines.files.storage import is_remote
from engines.inputs.image_files import FILE_BESIDE, FOLDER_BESIDE, PICTURE_BESIDE
from engines.inputs.image_formats import is_image_name
from engines.shards.local_paths import local_path

_NOTES = (".json", ".txt", ".md", ".log")  # of files that downloaders write beside their shards


def refuse_named_twice(packed: Iterable[str], pictures: Iterable[str]) -> None:
    """Refuse inputs whose rows would be embedded twice. A link is an input of its own, but a linked folder is the folder.

    Args:
        packed: paths and URLs of tars and parquet files.
        pictures: paths of folders and files of pictures.

    Raises:
        InputError: an input is named twice, or lies in a folder that is named, too.
    """
    named: dict[str, str] = {}
    for path in (*packed, *pictures):
        place = place_of(path)
        earlier = named.get(place)
        if earlier is not None:
            raise InputError(f"{path} is named twice{f', also as {earlier}' if earlier != path else ''}: name it once")
        named[place] = path
    folders = {place for place, path in named.items() if not is_remote(path) and os.path.isdir(place)}
    for path in pictures:
        above = next((folder for folder in _above(place_of(path)) if folder in folders), None)
        if above is not None:
            raise InputError(f"{path} is in {named[above]}, which is named, too: name one of them")


def beside(folder: str, read: Iterable[str]) -> Counter[str]:
    """Counts of the pictures, folders and other files beside the tars or parquet files of a folder: they are not read.

    Hidden ones are not counted, nor notes such as ``00000_stats.json``.

    Args:
        folder: path of the folder.
        read: paths of what is read all the same: its tars and parquet files, and what else the user named.
    """
    places, counted = {os.path.normpath(path) for path in read}, Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith(".") or os.path.normpath(entry.path) in places:
                continue
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself, or to a place that this user may not read
                is_folder = False
            if is_folder:
                counted[FOLDER_BESIDE] += 1
            elif is_image_name(entry.name):
                counted[PICTURE_BESIDE] += 1
            elif not entry.name.lower().endswith(_NOTES):
                counted[FILE_BESIDE] += 1
    return counted


def place_of(path: str) -> str:
    """A text that is the same for all spellings of a path or URL: links to folders are followed, those to files are not."""
    if is_remote(path):
        local, _ = local_path(path)
        if local is None:
            scheme, _, name = path.partition("://")
            return f"{scheme}://{'/'.join(part for part in name.split('/') if part not in ('', '.'))}"
        path = local
    path = path.rstrip("/") or ("/" if path else ".")
    if os.path.isdir(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _above(place: str) -> Iterator[str]:
    while (parent := os.path.dirname(place)) != place:
        place = parent
        yield place
