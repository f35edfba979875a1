"""The files of a bundle: where the manifest's paths lead, and whether what is there is what was written."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from engines.bundle_paths import resolve_path
from engines.errors import BundleError
from engines.manifest import Manifest, manifest_paths
from engines.onnx_external_data import check_external_data


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


def _engine_files(manifest: Manifest) -> set[str]:
    """Files without which only an engine is lost: not the graphs, which other engines read, too."""
    graphs = {tower.graph for tower in manifest.towers.values()}
    built = {path for engine in manifest.engines for path in (engine.file, engine.inspector) if path is not None}
    return built - graphs
