"""Image files by path: a file, a folder at any depth, or a list in a text file. Other files in a folder are counted."""

from __future__ import annotations

import os
import re
import stat
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import InputError
from engines.files.file_kinds import mode_of
from engines.files.text_files import read_lines
from engines.inputs.image_formats import HEIF_SUFFIXES, SUFFIXES, heif_problem, is_image_name

_NO_SUFFIX = "without a suffix"
_LINK, _CLOSED, _SPECIAL = "linked folder", "folder that cannot be read", "pipe or device that is named as a picture"
PICTURE_BESIDE, FOLDER_BESIDE, FILE_BESIDE = (
    f"{kind} beside tars or parquet files" for kind in ("picture", "folder", "other file")
)
FOLDER_MATCHED = "folder that a pattern matches"
_PLURALS = {
    _LINK: "linked folders",
    _CLOSED: "folders that cannot be read",
    _SPECIAL: "pipes or devices that are named as pictures",
    PICTURE_BESIDE: "pictures beside tars or parquet files",
    FOLDER_BESIDE: "folders beside tars or parquet files",
    FILE_BESIDE: "other files beside tars or parquet files",
    FOLDER_MATCHED: "folders that a pattern matches",
}
_SUFFIX = re.compile(r"\.[a-z0-9_+-]{1,12}")
_NAMED = 8  # largest number of kinds in one line


@dataclass(frozen=True)
class FoundImages:
    """Image files, and counts of the other files beside them.

    Attributes:
        files: image files, sorted within each folder that was searched.
        left_out: number of files by other suffix (``.mov``; ``without a suffix``), of linked folders, which are not searched, of
            folders that cannot be read, and of pipes, sockets and devices that are named as pictures. Hidden files and folders are
            not counted.
    """

    files: list[Path]
    left_out: Mapping[str, int] = field(default_factory=dict)


def find_images(path: Path, own_files: Iterable[str] = ()) -> FoundImages:
    """The file itself, or the image files (by suffix) of a folder at any depth, without hidden ones.

    Args:
        path: a file or a folder.
        own_files: names of files at the top of the folder that are expected beside pictures, such as captions.txt: not counted.

    Raises:
        InputError: there is nothing at `path`, or no image in it; or it cannot be reached, or is a pipe or a device.
    """
    left_out = Counter[str]()
    pictures = list(iterate_images(path, left_out, own_files))
    counted = {kind: count for kind, count in left_out.most_common() if count}
    return FoundImages(pictures, counted)


def iterate_images(path: Path, left_out: Counter[str], own_files: Iterable[str] = ()) -> Iterator[Path]:
    """The files of `find_images` one after the other, in the same order; only one folder's names are in memory at a time.

    Args:
        path: a file or a folder.
        left_out: receives the counts of other files.
        own_files: see `find_images`.

    Raises:
        InputError: see `find_images`; that there is no image is known at the end.
    """
    mode = mode_of(path, str(path), InputError)
    if mode is None:
        raise InputError(f"{path} is not there")
    if stat.S_ISREG(mode):
        yield path
        return
    if not stat.S_ISDIR(mode):
        raise InputError(f"{path} is not a regular file: save what it gives to a file, and pass that")
    expected_names, found = frozenset(own_files), False
    stack = [_sorted_entries(path, left_out)]
    while stack:
        entry = next(stack[-1], None)
        if entry is None:
            stack.pop()
        elif _is_folder(entry):
            if entry.is_symlink():
                left_out[_LINK] += 1
            else:
                stack.append(_sorted_entries(Path(entry.path), left_out))
        elif is_image_name(entry.name):
            if _is_special(entry):
                left_out[_SPECIAL] += 1
            else:
                found = True
                yield Path(entry.path)
        elif len(stack) > 1 or entry.name not in expected_names:
            left_out[kind_of(entry.name)] += 1
    if not found:
        counted = {kind: count for kind, count in left_out.most_common() if count}
        beside = f"; {describe_left_out(counted)}" if counted else ""
        raise InputError(f"{path} has no image file (looked for {', '.join(sorted(SUFFIXES))}{beside})")


def _sorted_entries(folder: Path, left_out: Counter[str]) -> Iterator[os.DirEntry[str]]:
    try:
        return iter(sorted(_entries(folder), key=lambda entry: entry.name))
    except OSError:
        left_out[_CLOSED] += 1
        return iter(())


def _entries(folder: Path) -> Iterator[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        yield from (entry for entry in entries if not entry.name.startswith("."))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to a place that this user may not read
        return False


def _is_special(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a named pipe, a socket or a device, or a link to one.

    ``stat`` is called only for entries that are no regular files. A link to nothing is not special: reading its picture raises the
    error.
    """
    try:
        return not entry.is_file() and not stat.S_ISREG(entry.stat().st_mode)
    except OSError:
        return False


def find_all_images(paths: Iterable[Path]) -> FoundImages:
    """The image files of several files and folders, in the order of `paths`; see `find_images`."""
    files, left_out = [], Counter[str]()
    for path in paths:
        images = find_images(path)
        files += images.files
        left_out.update(images.left_out)
    return FoundImages(files, dict(left_out.most_common()))


def kind_of(name: str) -> str:
    """The kind of a file that is left out, for its count: its suffix in lower case, or ``without a suffix``."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else _NO_SUFFIX


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """One line, such as ``left out: 12 .heic, 3 .mov: not among the image suffixes``; the rarest of many kinds are one figure."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {_plural(kind, count)}" for kind, count in kinds[:_NAMED]]
    if len(kinds) > _NAMED:
        parts.append(f"{sum(count for _, count in kinds[_NAMED:]):,} of {len(kinds) - _NAMED} other kinds")
    line = f"left out: {', '.join(parts)}"
    if any(kind not in _PLURALS for kind in left_out):
        line += ": not among the image suffixes"
    problem = heif_problem() if HEIF_SUFFIXES & left_out.keys() else None
    return f"{line}; {problem}" if problem is not None else line


def _plural(kind: str, count: int) -> str:
    return kind if count == 1 else _PLURALS.get(kind, kind)


def read_list(path: Path) -> list[Path]:
    """The files named in a text file, one a line; relative paths are relative to the working directory.

    Raises:
        InputError: the list cannot be read, is not text (see `engines.files.text_files`), or is empty.
    """
    files = [Path(line) for line in read_lines(path, "the list") if line.strip()]
    if not files:
        raise InputError(f"the list {path} names no file")
    return files
