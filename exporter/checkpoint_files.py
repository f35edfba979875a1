"""Checkpoint files on disk: which endings they have, which one a folder means, and their checksum."""

from __future__ import annotations

import hashlib
from pathlib import Path

from exporter.errors import ExportError

SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")

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
        raise ExportError(f"{folder} holds no weights; expected {_PREFERRED[0]} beside open_clip_config.json")
    names = ", ".join(path.name for path in files)
    raise ExportError(f"{folder} holds several checkpoints ({names}); name the one to use {_PREFERRED[0]}")
