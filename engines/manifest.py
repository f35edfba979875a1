"""The manifest of a bundle: its schema (the modules of `engines.schema`), its version, and the reading of the file.

The format in prose is ``engines/FORMAT.md``. Paths inside a manifest are relative to the bundle, with forward slashes.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engines.errors import BundleError, SchemaVersionError
from engines.files.bundle_paths import resolve_path
from engines.files.file_kinds import mode_of
from engines.schema.accuracy import Accuracy, Interval
from engines.schema.consistency import contradiction
from engines.schema.engine_entries import BatchProfile, Build, Engine, Profile, Range, Target, TowerName
from engines.schema.float64_check import Float64Check
from engines.schema.ranges import out_of_range
from engines.schema.structs import (
    File,
    KernelMode,
    Kernels,
    Limits,
    Manifest,
    Model,
    Parity,
    Preprocess,
    Quantization,
    Tensor,
    TextLength,
    Tokenizer,
    Tower,
    TowerParity,
)

__all__ = [
    "MANIFEST_NAME",
    "SCHEMA_VERSION",
    "Accuracy",
    "BatchProfile",
    "Build",
    "Engine",
    "File",
    "Float64Check",
    "Interval",
    "KernelMode",
    "Kernels",
    "Limits",
    "Manifest",
    "Model",
    "Parity",
    "Preprocess",
    "Profile",
    "Quantization",
    "Range",
    "Target",
    "Tensor",
    "TextLength",
    "Tokenizer",
    "Tower",
    "TowerName",
    "TowerParity",
    "manifest_bytes",
    "manifest_paths",
    "read_manifest",
]

SCHEMA_VERSION = 1
MANIFEST_NAME = "manifest.json"
# A thousand times the usual size; there is a limit because a reader holds the whole manifest in memory.
MAX_MANIFEST_BYTES = 16 << 20


class _Version(msgspec.Struct):
    schema_version: int


def read_manifest(bundle: str | os.PathLike[str]) -> Manifest:
    """Read and validate a bundle's manifest.

    Raises:
        BundleError: there is no such folder or no manifest in it, the manifest is not JSON, a field is missing, of the wrong type
            or out of its range, fields contradict each other, or a path leaves the folder.
        SchemaVersionError: a newer release wrote the manifest.
    """
    folder = Path(bundle)
    mode = mode_of(folder, f"bundle {folder}", BundleError)
    if mode is None or not stat.S_ISDIR(mode):
        raise BundleError(f"bundle {folder} is {'not there' if mode is None else 'a file, not a folder of a bundle'}")
    data = _manifest_data(folder)
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise SchemaVersionError(
                f"bundle {folder} has schema version {version}, this release reads up to {SCHEMA_VERSION}: "
                "upgrade openclip-engines, or export the bundle again with this release"
            )
        manifest = msgspec.json.decode(data, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BundleError(f"{folder / MANIFEST_NAME} is damaged or was edited: {_short(str(error))}") from error
    problem = out_of_range(manifest) or contradiction(manifest)
    if problem is not None:
        raise BundleError(
            f"{folder / MANIFEST_NAME} was edited, or is wrong: {problem}; copy or export the bundle again"
        )
    for relative in (*manifest_paths(manifest), *manifest.files):
        resolve_path(folder, relative)
    return manifest


def _short(message: str) -> str:
    """A message with its middle cut out where it is long, because it may quote a value of any length; its end names the place."""
    return message if len(message) <= 300 else f"{message[:150]}…{message[-120:]}"


def _manifest_data(folder: Path) -> bytes:
    path = folder / MANIFEST_NAME
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{path} is not a regular file: copy or export the bundle again")
        if status.st_size > MAX_MANIFEST_BYTES:
            size = f"{status.st_size} bytes, more than the {MAX_MANIFEST_BYTES} of any manifest"
            raise BundleError(f"{path} has {size}: copy or export the bundle again")
        return path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it has no {MANIFEST_NAME}") from None
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error


def manifest_paths(manifest: Manifest) -> Iterator[str]:
    """Every path in the manifest, except for its list of files."""
    yield manifest.reference
    if manifest.tokenizer is not None:
        yield manifest.tokenizer.file
    for tower in manifest.towers.values():
        yield tower.graph
    for engine in manifest.engines:
        yield engine.file
        if engine.inspector is not None:
            yield engine.inspector


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest as indented JSON; equal manifests always give equal bytes."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"
