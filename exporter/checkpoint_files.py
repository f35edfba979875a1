"""Checkpoint files on disk: their endings, which one a folder means, their checksum, and the command that converts one."""

from __future__ import annotations

import hashlib
import re
import shlex
from pathlib import Path

from exporter.errors import ExportError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
CONFIG_NAME = "open_clip_config.json"

# A folder's checkpoint, in the order in which open_clip looks for one.
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


def file_sha256(path: Path) -> str:
    """The hex sha256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def find_checkpoint(folder: Path) -> Path:
    """The weights of an open_clip folder: the preferred name that is there, else the only checkpoint.

    Raises:
        ExportError: the folder has none, or several under other names.
    """
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


def conversion_command(path: Path, *options: str, part: str = "") -> str:
    """A shell command that writes the weights of `path`, or its `part`, as a new safetensors file beside it.

    In a folder in open_clip's format the new file has the name that is looked for first, so that ``local-dir:`` takes it.
    """
    out = path.with_suffix(".safetensors")
    if (path.parent / CONFIG_NAME).is_file():
        out = path.parent / _PREFERRED[0]
    elif part:
        out = path.with_name(f"{path.stem}-{re.sub(r'[^A-Za-z0-9]+', '-', part)}.safetensors")
    if out.exists():
        out = path.with_name(f"{out.stem}-converted.safetensors")
    files = [f"./{file}" if str(file).startswith("-") else str(file) for file in (path, out)]
    named = [f"--part={part}"] if part else []
    return shlex.join(["python", "-m", "exporter.convert_checkpoint", *files, *named, *options])
