"""Checkpoint files on disk: their suffixes, the choice of a folder's file, their checksum, and the command that converts one."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from exporter.errors import ExportError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
CONFIG_NAME = "open_clip_config.json"
FOLDER_PREFIX = "local-dir:"

# The names of a folder's checkpoint, in the order of open_clip's search.
_PREFERRED = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "open_clip_pytorch_model.pth",
    "model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.pth",
    "model.pth",
)


def find_checkpoint(folder: Path) -> Path:
    """Find the weights of an open_clip folder: the first preferred name that exists, else the only checkpoint.

    Raises:
        ExportError: the folder has no checkpoint, or several under other names, or cannot be read.
    """
    with readable(folder):
        files = sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file())
    for name in _PREFERRED:
        if folder / name in files:
            return folder / name
    if len(files) == 1:
        return files[0]
    if not files:
        raise ExportError(f"{folder} holds no weights; expected {_PREFERRED[0]} beside {CONFIG_NAME}")
    names = ", ".join(path.name for path in files)
    raise ExportError(f"{folder} holds several checkpoints ({names}); name the one to use {_PREFERRED[0]}")


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn an error of the operating system about `path` into an `ExportError`."""
    try:
        yield
    except OSError as error:
        raise ExportError(
            f"{path} cannot be read ({error.strerror or error}): check its name and its permissions"
        ) from error


class Conversion(NamedTuple):
    """The steps that turn weights of a checkpoint into a file that the exporter loads."""

    line: str  # a shell command
    then: str  # the step after it, as the end of a sentence

    def __str__(self) -> str:
        return f"`{self.line}` and {self.then}"


def conversion_of(path: Path, *options: str, part: str = "") -> Conversion:
    """Make a shell command that writes the weights of `path`, or its `part`, as a new safetensors file beside it.

    In a folder in open_clip's format the new file finally has the name that comes first in the search, so that ``local-dir:`` takes
    it. If that is the name of `path` itself, `path` is kept under another name.

    Args:
        path: the checkpoint.
        options: further options of ``exporter.convert_checkpoint``.
        part: the value of ``--part``; empty for the whole file.
    """
    preferred = path.parent / _PREFERRED[0]
    in_folder = (path.parent / CONFIG_NAME).is_file() and (path.name == preferred.name or not preferred.exists())
    ending = re.sub(r"[^A-Za-z0-9]+", "-", part)
    if in_folder and path.name != preferred.name:
        out = preferred
    else:
        out = _new(path.with_name(f"{path.stem}-{ending}.safetensors" if ending else f"{path.stem}.safetensors"))
    named = [f"--part={part}"] if part else []
    line = shlex.join(["python", "-m", "exporter.convert_checkpoint", *map(_word, (path, out)), *named, *options])
    if not in_folder:
        return Conversion(line, f"pass {out} as --pretrained")
    if path.name == preferred.name:
        original = _new(path.with_name(f"{path.stem}-original.safetensors"))
        for old, new in ((path, original), (out, path)):
            line += f" && {shlex.join(['mv', _word(old), _word(new)])}"
    return Conversion(line, f"pass {FOLDER_PREFIX}{path.parent} as MODEL")


def _new(path: Path) -> Path:
    """Return `path`, or the first similar name that is free."""
    names = (f"{path.stem}-converted{number}{path.suffix}" for number in ("", *map(str, range(2, 1000))))
    return next(item for item in (path, *map(path.with_name, names)) if not item.exists())


def _word(path: Path) -> str:
    """Return `path` in a form that no command reads as an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
