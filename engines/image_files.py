"""Image files by path: a file, a folder at any depth, or a list in a text file. What a folder has besides is counted."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from engines.errors import InputError
from engines.image_formats import HEIF_SUFFIXES, SUFFIXES, heif_problem, is_image_name
from engines.text_files import read_lines

_NO_SUFFIX, _LINK, _CLOSED = "without a suffix", "linked folder", "folder that cannot be read"
_SUFFIX = re.compile(r"\.[a-z0-9_+-]{1,12}")
_NAMED = 8  # kinds in one line


@dataclass(frozen=True)
class FoundImages:
    """Image files, and what was beside them.

    Attributes:
        files: sorted within each folder that was searched.
        left_out: how many files of each other suffix (``.mov``; ``without a suffix``) are there, and linked folders, which are not
            entered, and folders that cannot be read. Hidden files and folders are not counted.
    """

    files: list[Path]
    left_out: Mapping[str, int] = field(default_factory=dict)


def find_images(path: Path, own_files: Iterable[str] = ()) -> FoundImages:
    """The file itself, or the image files (by suffix) of a folder at any depth, without hidden ones.

    Args:
        path: a file or a folder.
        own_files: names at the top of the folder that are known to be no pictures, such as captions.txt: not counted.

    Raises:
        InputError: there is nothing at `path`, or no image in it.
    """
    if path.is_file():
        return FoundImages([path])
    if not path.exists():
        raise InputError(f"{path} is not there")
    found, left_out = [], Counter[str]()

    def cannot_enter(error: OSError) -> None:
        left_out[_CLOSED] += 1

    for folder, folders, names in os.walk(path, onerror=cannot_enter):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        left_out[_LINK] += sum(os.path.islink(os.path.join(folder, name)) for name in folders)
        for name in names:
            if name.startswith("."):
                continue
            if is_image_name(name):
                found.append(Path(folder, name))
            elif Path(folder) != path or name not in own_files:
                left_out[kind_of(name)] += 1
    counted = {kind: count for kind, count in left_out.most_common() if count}
    if not found:
        beside = f"; {describe_left_out(counted)}" if counted else ""
        raise InputError(f"{path} has no image file (looked for {', '.join(sorted(SUFFIXES))}{beside})")
    return FoundImages(sorted(found), counted)


def find_all_images(paths: Iterable[Path]) -> FoundImages:
    """The image files of several files and folders, in the order that they are named in; see `find_images`."""
    files, left_out = [], Counter[str]()
    for path in paths:
        found = find_images(path)
        files += found.files
        left_out.update(found.left_out)
    return FoundImages(files, dict(left_out.most_common()))


def kind_of(name: str) -> str:
    """What a file that is left out is counted as: its suffix in lower case, or ``without a suffix``."""
    suffix = os.path.splitext(name)[1].lower()
    return suffix if _SUFFIX.fullmatch(suffix) else _NO_SUFFIX


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """One line, such as ``left out: 12 .heic, 3 .mov: not among the image suffixes``; of many kinds, the rarest are one figure."""
    kinds = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    parts = [f"{count:,} {_plural(kind, count)}" for kind, count in kinds[:_NAMED]]
    if len(kinds) > _NAMED:
        parts.append(f"{sum(count for _, count in kinds[_NAMED:]):,} of {len(kinds) - _NAMED} other kinds")
    line = f"left out: {', '.join(parts)}"
    if any(kind not in (_LINK, _CLOSED) for kind in left_out):
        line += ": not among the image suffixes"
    problem = heif_problem() if HEIF_SUFFIXES & left_out.keys() else None
    return f"{line}; {problem}" if problem is not None else line


def _plural(kind: str, count: int) -> str:
    if count == 1 or kind not in (_LINK, _CLOSED):
        return kind
    return kind.replace("folder", "folders", 1)


def read_list(path: Path) -> list[Path]:
    """The files named in a text file, one a line; relative ones are relative to the working directory.

    Raises:
        InputError: the list cannot be read, is not text (see `engines.text_files`), or is empty.
    """
    files = [Path(line) for line in read_lines(path, "the list") if line.strip()]
    if not files:
        raise InputError(f"the list {path} names no file")
    return files
