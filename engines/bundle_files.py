"""The files of a bundle: where the manifest's paths lead, and whether what is there is what was written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from engines.errors import BundleError

if TYPE_CHECKING:
    from engines.manifest import Manifest


def resolve_path(bundle: str | os.PathLike[str], relative: str) -> Path:
    """The file that a manifest's path names.

    Raises:
        BundleError: absolute, with backslashes, a drive or ``..``, or a link that leads out of the bundle.
    """
    folder = Path(bundle)
    parts = PurePosixPath(relative).parts
    plain = bool(parts) and not relative.startswith("/") and not set(relative) & set("\\:\0") and ".." not in parts
    if not plain or relative in (".", "./"):
        raise BundleError(f"path {relative!r} in the manifest of {folder} does not name a file inside the bundle")
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BundleError(f"path {relative!r} in the manifest of {folder} leads out of the bundle")
    return path


def existing_file(bundle: str | os.PathLike[str], relative: str) -> Path:
    """As `resolve_path`, of a file that an engine is loaded from.

    Raises:
        BundleError: it is not there, too.
    """
    path = resolve_path(bundle, relative)
    if not path.is_file():
        raise BundleError(f"{relative} is missing in bundle {bundle}: copy or export the bundle again")
    return path


def verify_files(bundle: str | os.PathLike[str], manifest: Manifest, full: bool = False) -> None:
    """Check that every file is there and has its size; with `full`, its checksum too.

    Files that only engines use are checked when their engine is chosen (`file_problem`), unless `full`: a bundle that was copied
    without some of its engines serves with the others.

    Raises:
        BundleError: naming the first file that is missing, was cut or was changed, and ONNX weights that lie outside the
            bundle or past the end of their file.
    """
    from engines.onnx_external_data import check_external_data

    folder = Path(bundle)
    optional = set() if full else _engine_files(manifest)
    for relative, expected in manifest.files.items():
        path = resolve_path(folder, relative)
        problem = None if relative in optional else file_problem(folder, manifest, relative)
        if problem is not None:
            raise BundleError(f"{relative} {problem} in bundle {folder}: copy or export the bundle again")
        if full and file_sha256(path) != expected.sha256:
            raise BundleError(f"{relative} in bundle {folder} was changed: its sha256 is not the manifest's")
    for relative in manifest_paths(manifest):
        if relative in optional:
            continue
        existing_file(folder, relative)
        if manifest.files and relative not in manifest.files:
            raise BundleError(f"{relative} is used by the manifest of {folder} but not listed among its files")
        if path.suffix == ".onnx":
            check_external_data(path, folder)


def file_problem(bundle: str | os.PathLike[str], manifest: Manifest, relative: str) -> str | None:
    """What is wrong with one file's presence and size ("is missing"), or None."""
    path = resolve_path(bundle, relative)
    if not path.is_file():
        return "is missing"
    expected, size = manifest.files.get(relative), path.stat().st_size
    if expected is not None and size != expected.bytes:
        return f"has {size} bytes instead of {expected.bytes}"
    return None


def file_sha256(path: Path) -> str:
    """The sha256 (hex) of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def manifest_paths(manifest: Manifest) -> Iterator[str]:
    """Every path that the manifest uses, but for its list of files."""
    yield manifest.reference
    if manifest.tokenizer is not None:
        yield manifest.tokenizer.file
    for tower in manifest.towers.values():
        yield tower.graph
    for engine in manifest.engines:
        yield engine.file
        if engine.inspector is not None:
            yield engine.inspector


def _engine_files(manifest: Manifest) -> set[str]:
    """Files without which only an engine is lost: not the graphs, which other engines read, too."""
    graphs = {tower.graph for tower in manifest.towers.values()}
    built = {path for engine in manifest.engines for path in (engine.file, engine.inspector) if path is not None}
    return built - graphs
