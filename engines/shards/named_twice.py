"""Inputs that a user named twice, by two spellings of their path or inside one another, and what a folder of tars leaves out."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator

from engines.errors import InputError
from engines.files.storage import is_remote
from engines.inputs.image_files import FOLDER_BESIDE, PICTURE_BESIDE
from engines.inputs.image_formats import is_image_name


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
        place = _place(path)
        earlier = named.get(place)
        if earlier is not None:
            raise InputError(f"{path} is named twice{f', also as {earlier}' if earlier != path else ''}: name it once")
        named[place] = path
    folders = {place for place, path in named.items() if not is_remote(path) and os.path.isdir(place)}
    for path in pictures:
        above = next((folder for folder in _above(_place(path)) if folder in folders), None)
        if above is not None:
            raise InputError(f"{path} is in {named[above]}, which is named, too: name one of them")


def beside(folder: str, packed: Iterable[str]) -> Counter[str]:
    """Counts of the pictures and folders beside the tars or parquet files of a folder: they are not read.

    Args:
        folder: path of the folder.
        packed: paths of its tars and parquet files, of which one may be a folder.
    """
    read, counted = {os.path.basename(path) for path in packed}, Counter[str]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name in read or entry.name.startswith("."):
                continue
            if entry.is_dir():
                counted[FOLDER_BESIDE] += 1
            elif is_image_name(entry.name):
                counted[PICTURE_BESIDE] += 1
    return counted


def _place(path: str) -> str:
    if is_remote(path):
        return path
    if os.path.isdir(path):
        return os.path.realpath(path)
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder), name)


def _above(place: str) -> Iterator[str]:
    while (parent := os.path.dirname(place)) != place:
        place = parent
        yield place
