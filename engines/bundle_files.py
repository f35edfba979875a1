"""The files of a bundle: whether what is there is what was written.

A file may be a link that leads out of the bundle's folder, as every file in the Hugging Face cache is one. It is accepted where
the manifest lists it, where it ends at a regular file, and where that file has the manifest's checksum: then it does not matter
where the bytes lie, and a bundle cannot make its reader take another file for its own.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from engines.errors import BundleError
from engines.files.bundle_paths import leads_out, resolve_path
from engines.files.checksums import file_sha256
from engines.files.onnx_external_data import check_external_data
from engines.kinds import KINDS
from engines.manifest import Engine, Manifest, manifest_paths

# Kinds whose file is an ONNX graph. The other kinds check their file's checksum when they load it.
_GRAPH_KINDS = frozenset(kind.name for kind in KINDS.values() if kind.runs_graph)


def existing_file(bundle: str | os.PathLike[str], relative: str) -> Path:
    """As `resolve_path`, of a file that an engine is loaded from.

    Raises:
        BundleError: it is not there, too.
    """
    path = resolve_path(bundle, relative)
    problem = _presence_problem(path)
    if problem is not None:
        raise BundleError(f"{relative} {problem} in bundle {bundle}: copy or export the bundle again")
    return path


def verify_files(bundle: str | os.PathLike[str], manifest: Manifest, full: bool = False) -> None:
    """Check that every file is there and has its size; with `full`, or where it is a link out of the folder, its checksum too.

    Files that only engines use may be missing or cut, unless `full`: a bundle that was copied without some of its engines serves
    with the others, and `engine_problem` says so when an engine is chosen.

    Raises:
        BundleError: naming the first file that is missing, not listed, was cut or was changed, and ONNX weights that lie outside
            the bundle, that the manifest does not list, or that are past the end of their file.
    """
    folder = Path(bundle)
    if not manifest.files:
        raise BundleError(f"the manifest of {folder} lists no files, so none can be checked: export the bundle again")
    for relative in manifest_paths(manifest):
        if relative not in manifest.files:
            raise BundleError(
                f"{relative} is used by the manifest of {folder} but not listed among its files: export the bundle again"
            )
    graphs = _graphs(manifest)
    optional = set() if full else _engine_files(manifest)
    checked_later = {engine.file for engine in manifest.engines if engine.kind not in _GRAPH_KINDS} - set(graphs)
    absent = set()
    for relative, expected in manifest.files.items():
        path = resolve_path(folder, relative)
        problem = file_problem(folder, manifest, relative)
        if problem is not None and relative not in optional:
            raise BundleError(f"{relative} {problem} in bundle {folder}: copy or export the bundle again")
        if problem is not None:
            absent.add(relative)
            continue
        if full or (relative not in checked_later and leads_out(folder, path)):
            _check_sha256(folder, relative, path, expected.sha256)
    for relative in graphs:
        # An engine's own graph without its weights is no engine, as one that is missing is none.
        if not absent & {relative, f"{relative}.data"}:
            check_external_data(folder, relative, manifest.files)


def file_problem(bundle: str | os.PathLike[str], manifest: Manifest, relative: str) -> str | None:
    """What is wrong with one file's presence and size ("is missing"), or None."""
    path = resolve_path(bundle, relative)
    problem = _presence_problem(path)
    if problem is not None:
        return problem
    expected, size = manifest.files.get(relative), path.stat().st_size
    if expected is not None and size != expected.bytes:
        return f"has {size} bytes instead of {expected.bytes}"
    return None


def engine_problem(bundle: str | os.PathLike[str], manifest: Manifest, engine: Engine) -> str | None:
    """Why an engine's files cannot be opened ("engines/x/image.onnx is missing"), or None."""
    weights = f"{engine.file}.data"
    for relative in (engine.file, weights) if weights in manifest.files else (engine.file,):
        problem = file_problem(bundle, manifest, relative)
        if problem is not None:
            return f"{relative} {problem}"
    return None


def _presence_problem(path: Path) -> str | None:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return "is a link to nothing" if path.is_symlink() else "is missing"
    except OSError as error:
        return f"cannot be reached ({error.strerror or error})"
    return None if stat.S_ISREG(mode) else "is not a regular file"


def _check_sha256(folder: Path, relative: str, path: Path, expected: str) -> None:
    try:
        found = file_sha256(path)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if found != expected:
        raise BundleError(
            f"{relative} in bundle {folder} was changed: its sha256 is not the manifest's; copy or export the bundle again"
        )


def _graphs(manifest: Manifest) -> list[str]:
    """Every ONNX graph, each once."""
    graphs = [tower.graph for tower in manifest.towers.values()]
    graphs += [engine.file for engine in manifest.engines if engine.kind in _GRAPH_KINDS]
    graphs += [name for name in manifest.files if name.endswith(".onnx")]
    return list(dict.fromkeys(graphs))


def _engine_files(manifest: Manifest) -> set[str]:
    """Files without which only an engine is lost: not the towers' graphs, which other engines read, too."""
    graphs = {tower.graph for tower in manifest.towers.values()}
    built = {
        path for engine in manifest.engines for path in (engine.file, engine.inspector) if path is not None
    } - graphs
    return built | {f"{path}.data" for path in built}  # the weights of a graph that is an engine's own
