"""Inputs that a user named twice, by two spellings of their path or inside one another."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator

from engines.errors import InputError
from engines.files.storage import is_remote
from engines.shards.local_paths import local_path


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
