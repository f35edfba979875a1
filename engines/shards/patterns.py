"""What the user named: patterns become tars and parquet files, each with its output's name, and folders and files of images."""

from __future__ import annotations

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator

from engines.errors import InputError
from engines.files.storage import filesystem, is_remote, matching
from engines.inputs.image_files import FILE_BESIDE, FOLDER_BESIDE, FOLDER_MATCHED, PICTURE_BESIDE
from engines.inputs.image_formats import is_image_name

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_NOTES = (".json", ".txt", ".md", ".log")  # of files that downloaders write beside their shards
_BRACES = re.compile(r"\{(?:(?P<first>\d+)\.\.(?P<last>\d+)|(?P<choices>[^{}]*,[^{}]*))\}")
_MAGIC = re.compile(r"[*?\[{]")


def sorted_out(paths: Iterable[str], left_out: Counter[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """What paths and patterns name.

    Args:
        paths: paths, URLs and patterns.
        left_out: receives the counts of what lies beside tars and parquet files in a folder, which is not read.

    Returns:
        Pairs of an output's name and its tar or parquet file; and folders and files of images.

    Raises:
        InputError: a pattern matches nothing, or something that is no input.
    """
    packed: list[tuple[str, str]] = []
    pictures: list[str] = []
    paths = list(paths)
    for path in paths:
        found = list(dict.fromkeys(_expanded(path)))  # glob gives some files twice where a pattern has several **
        if not found:
            raise InputError(f"{path} matches no file")
        for file in found:
            # A parquet dataset may be a folder that is named like a file.
            is_folder = not is_remote(file) and os.path.isdir(file)
            suffix = None if is_folder else _packed_suffix(file)
            if is_remote(file) and not packed:
                filesystem(file)  # a library that is missing is one error, and not one of each shard
            if suffix is not None:
                packed.append((_name(file, path, suffix), file))
            elif is_remote(file):
                raise InputError(f"{file} is neither a .tar nor a .parquet: only these are read from a URL")
            elif is_folder:
                escaped = glob.escape(file.rstrip("/"))
                inside = [name for name in matching(f"{escaped}/*") if _packed_suffix(name) is not None]
                packed += [(_name(name, f"{file.rstrip('/')}/*", _packed_suffix(name) or ""), name) for name in inside]
                if inside:
                    left_out.update(_beside(file, [*inside, *paths]))
                else:
                    pictures.append(file)
            elif is_image_name(file) or not os.path.exists(file) or found == [path]:
                pictures.append(file)
            else:
                raise InputError(f"{file} is neither a .tar, a .parquet, a folder nor an image file")
        if (
            found != [path] and not is_remote(path) and "**" not in path
        ):  # a shell names them, too, where it sees the pattern
            folders = sum(os.path.isdir(name) for braced in _braces(path) for name in glob.iglob(braced))
            left_out.update({FOLDER_MATCHED: folders} if folders else {})
    return packed, pictures


def _expanded(pattern: str) -> Iterator[str]:
    """The paths of a pattern with ``{000..123}``, ``{a,b}``, ``*``, ``?``, ``[…]``; braces name files that need not be there."""
    if not is_remote(pattern) and os.path.exists(pattern):
        yield pattern
        return
    for name in _braces(pattern):
        if re.search(r"[*?\[]", name):
            yield from matching(name)
        else:
            yield name


def _braces(pattern: str) -> Iterator[str]:
    match = _BRACES.search(pattern)  # the first one varies slowest, as in a shell
    if match is None:
        yield pattern
        return
    first, last, choices = match.group("first", "last", "choices")
    if choices is not None:
        words: Iterable[str] = choices.split(",")
    elif int(first) > int(last):
        raise InputError(f"{pattern}: the range {match.group()} runs backwards")
    else:
        width = len(first) if len(first) == len(last) or first.startswith("0") else 0
        words = (f"{number:0{width}d}" for number in range(int(first), int(last) + 1))
    for word in words:
        yield from _braces(f"{pattern[: match.start()]}{word}{pattern[match.end() :]}")


def _packed_suffix(path: str) -> str | None:
    return next((suffix for suffix in (*TAR_SUFFIXES, ".parquet") if path.lower().endswith(suffix)), None)


def _beside(folder: str, read: Iterable[str]) -> Counter[str]:
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


def fixed_folder(pattern: str) -> str:
    """The folders of a pattern that are the same for all that it matches."""
    magic = _MAGIC.search(pattern)
    return (pattern[: magic.start()] if magic is not None else pattern).rpartition("/")[0] or "."


def _name(file: str, pattern: str, suffix: str) -> str:
    """The part of a file's path behind the folders of its pattern that are the same for all files, without the suffix."""
    magic = _MAGIC.search(pattern) if pattern != file else None
    folder = _path(pattern[: magic.start()] if magic is not None else pattern).rpartition("/")[0]
    path = _path(file)
    inside = path[len(folder) + 1 :] if folder and path.startswith(f"{folder}/") else path
    name = inside[: -len(suffix)] if suffix else inside
    parts = [part.lstrip("._") or "shard" for part in name.split("/") if part not in ("", ".", "..")]
    return "/".join(parts)


def _path(url: str) -> str:
    return url.partition("://")[2].lstrip("/") if is_remote(url) else url
