"""Checks of a bundle's files: whether they are there, and are the files that the exporter wrote.

A file may be a link that leads out of the bundle's folder, because every file in the Hugging Face cache is such a link. It is
accepted where the manifest lists it, where it ends at a regular file, and where that file has the manifest's checksum: then it
does not matter where the bytes lie, and a bundle cannot make its reader take a foreign file for one of the bundle's.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from engines.engine_kinds import KINDS
from engines.errors import BundleError, EngineUnavailableError
from engines.files.bundle_paths import leads_out, resolve_path
from engines.files.checksums import file_sha256
from engines.files.onnx_external_data import check_external_data
from engines.manifest import Engine, Manifest, manifest_paths

# Kinds whose engine file is an ONNX graph. The other kinds check the engine file's checksum when they load it.
_GRAPH_KINDS = frozenset(kind.name for kind in KINDS.values() if kind.runs_graph)


def existing_file(bundle: str | os.PathLike[str], relative: str) -> Path:
    """The path of a file from which an engine is loaded; see `resolve_path`.

    Raises:
        BundleError: the path is not inside the bundle, or no regular file is there.
    """
    path = resolve_path(bundle, relative)
    problem = _presence_problem(path)
    if problem is not None:
        raise BundleError(f"{relative} {problem} in bundle {bundle}: copy or export the bundle again")
    return path


def verify_files(bundle: str | os.PathLike[str], manifest: Manifest, full: bool = False) -> None:
    """Check every file's presence and size; with `full`, or where the file is a link out of the folder, its checksum too.

    Files that only engines use may be missing or cut, unless `full`: a bundle that was copied without some of its engines serves
    with the others, and `engine_problem` reports the missing file when an engine is chosen.

    Raises:
        BundleError: a file is missing, not listed, was cut or was changed (the message names the first one), or ONNX weights lie
            outside the bundle, in a file that the manifest does not list, or past the end of their file.
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
    optional = set() if full else _engine_files(manifest, manifest.engines)
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
        # An engine's own graph whose weights are missing counts as missing itself.
        if not absent & {relative, f"{relative}.data"}:
            check_external_data(folder, relative, manifest.files)


def file_problem(bundle: str | os.PathLike[str], manifest: Manifest, relative: str) -> str | None:
    """The problem of one file's presence or size ("is missing"), or None."""
    path = resolve_path(bundle, relative)
    problem = _presence_problem(path)
    if problem is not None:
        return problem
    expected, size = manifest.files.get(relative), path.stat().st_size
    if expected is not None and size != expected.bytes:
        return f"has {size} bytes instead of {expected.bytes}"
    return None


def engine_problem(bundle: str | os.PathLike[str], manifest: Manifest, engine: Engine) -> str | None:
    """The reason why an engine's files cannot be opened ("engines/x/image.onnx is missing"), or None."""
    weights = f"{engine.file}.data"
    for relative in (engine.file, weights) if weights in manifest.files else (engine.file,):
        problem = file_problem(bundle, manifest, relative)
        if problem is not None:
            return f"{relative} {problem}"
    return None


def files_for_engine(manifest: Manifest, engine: str) -> list[str]:
    """The files of the manifest without those that only engines of other kinds than `engine` use; with ``auto`` all files.

    Raises:
        EngineUnavailableError: the bundle has no engine of that kind.
    """
    if engine == "auto":
        return list(manifest.files)
    kept = [item for item in manifest.engines if item.kind == engine]
    if not kept:
        kinds = ", ".join(dict.fromkeys(item.kind for item in manifest.engines))
        raise EngineUnavailableError(f"the bundle has no engine {engine!r}: it has {kinds or 'none'}")
    others = _engine_files(manifest, [item for item in manifest.engines if item.kind != engine])
    others -= _engine_files(manifest, kept)
    return [name for name in manifest.files if name not in others]


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
        actual = file_sha256(path)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if actual != expected:
        raise BundleError(
            f"{relative} in bundle {folder} was changed: its sha256 is not the manifest's; copy or export the bundle again"
        )


def _graphs(manifest: Manifest) -> list[str]:
    """The paths of all ONNX graphs, each once."""
    graphs = [tower.graph for tower in manifest.towers.values()]
    graphs += [engine.file for engine in manifest.engines if engine.kind in _GRAPH_KINDS]
    graphs += [name for name in manifest.files if name.endswith(".onnx")]
    return list(dict.fromkeys(graphs))


def _engine_files(manifest: Manifest, engines: Sequence[Engine]) -> set[str]:
    """Files that only these engines need: not the towers' graphs, because other engines read them, too."""
    graphs = {tower.graph for tower in manifest.towers.values()}
    built = {path for engine in engines for path in (engine.file, engine.inspector) if path is not None} - graphs
    return built | {f"{path}.data" for path in built}  # the weights of a graph that is an engine's own
