"""Image files by path: a file, a folder at any depth, or a list in a text file."""

from __future__ import annotations

import os
from pathlib import Path

from engines.errors import InputError

SUFFIXES = frozenset(
    (
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".avif",
        ".ppm",
        ".pgm",
        ".jp2",
    )
)


def find_images(path: Path) -> list[Path]:
    """The file itself, or the image files (by suffix) of a folder at any depth, sorted; hidden ones are left out.

    Raises:
        InputError: there is nothing at `path`, or no image in it.
    """
    if path.is_file():
        return [path]
    if not path.exists():
        raise InputError(f"{path} is not there")
    found = []
    for folder, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(folder, n) for n in files if not n.startswith(".") and Path(n).suffix.lower() in SUFFIXES]
    if not found:
        raise InputError(f"{path} has no image file (looked for {', '.join(sorted(SUFFIXES))})")
    return sorted(found)


def read_list(path: Path) -> list[Path]:
    """The files named in a text file, one a line; relative ones are relative to the working directory.

    Raises:
        InputError: the list cannot be read, or is empty.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the list {path}: {error}") from error
    files = [Path(line) for line in lines if line.strip()]
    if not files:
        raise InputError(f"the list {path} names no file")
    return files
