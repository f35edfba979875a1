"""Downloads of bundles from the hub: into the client's cache, or into a folder that appears under its name only when it is whole.

`huggingface_hub` does the transfer: a connection that broke goes on where it broke, files that are there already are left alone,
and one cache serves all programs of this machine. This module chooses the files, pins them to one commit, and compares each with
the manifest's size and sha256. Files come one after the other, in this thread, so that Ctrl-C ends a download at once.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engines.bundle_files import file_problem, files_for_engine
from engines.errors import BundleError, HubError, SchemaVersionError
from engines.files.bundle_paths import resolve_path
from engines.files.checksums import file_sha256
from engines.files.durable import flush_to_disk
from engines.hub.client import hub_client, hub_errors, is_offline, silent_progress
from engines.hub.reference import HubReference, is_reference, parse_reference
from engines.manifest import MANIFEST_NAME, Manifest, read_manifest

_CARD = "README.md"
_LOCK = ".pull.lock"


@dataclass(frozen=True)
class PulledBundle:
    """A bundle that was downloaded, or was there already.

    Attributes:
        folder: the bundle's folder.
        commit: the commit of the repository, 40 hexadecimal digits.
        files: the files of the manifest that were wanted.
        bytes: their size.
    """

    folder: Path
    commit: str
    files: tuple[str, ...]
    bytes: int


def local_bundle(path: str | os.PathLike[str], engine: str = "auto") -> str | os.PathLike[str]:
    """The path itself; for a reference to the hub the bundle's folder in the client's cache, with missing files downloaded.

    Files that the cache has are compared by size only, because loading a bundle of links reads their checksums.

    Args:
        path: a folder, or a reference such as ``hf:ORG/NAME@REVISION``.
        engine: a kind of engine, whose files suffice; ``auto``: all files.

    Raises:
        InputError: the reference is malformed.
        HubError: the hub cannot be reached, or refuses; or the client library is missing.
        BundleError: the repository holds no bundle, or a damaged one.
        EngineUnavailableError: the bundle has no such engine.
    """
    return pull_to_cache(parse_reference(path), engine, full=False).folder if is_reference(path) else path


def pull_manifest(reference: HubReference) -> Manifest:
    """Download a bundle's manifest alone into the client's cache.

    Args:
        reference: repository and revision.

    Raises:
        HubError, BundleError: see `local_bundle`.
    """
    with hub_errors(str(reference), reference.revision):
        return _manifest_of(reference, [MANIFEST_NAME])[1]


def pull_to_cache(reference: HubReference, engine: str = "auto", full: bool = True) -> PulledBundle:
    """Download a bundle into the client's cache (``HF_HUB_CACHE``).

    Args:
        reference: repository and revision.
        engine: see `local_bundle`.
        full: compare the checksums of all files, also of those that the cache had before.

    Raises:
        HubError, BundleError, EngineUnavailableError: see `local_bundle`.
    """
    with hub_errors(str(reference), reference.revision):
        snapshot, manifest = _manifest_of(reference)
        names = files_for_engine(manifest, engine)
        missing = [name for name in names if not resolve_path(snapshot, name).exists()]
        for name in missing:
            _download(reference.repository, snapshot.name, name)
        _check(reference, snapshot, snapshot.name, manifest, names, names if full else missing, None)
    return _pulled(snapshot, snapshot.name, manifest, names)


def pull_to_folder(reference: HubReference, out: Path, engine: str = "auto") -> PulledBundle:
    """Download a bundle into a folder of its own.

    The files are collected beside `out`, in ``.NAME.pull-COMMIT``, and that folder is renamed when all are right. A pull that was
    killed is continued there by the next one; two pulls into the same folder wait for each other. Files that the client's cache
    has are copied from it; others do not go through it.

    Args:
        reference: repository and revision.
        out: the folder, which is not there yet, or is empty, or holds the same files already.
        engine: see `local_bundle`.

    Raises:
        HubError, BundleError, EngineUnavailableError: see `local_bundle`; or `out` holds something else, or cannot be written.
    """
    out = Path(os.path.abspath(out))
    with hub_errors(str(reference), reference.revision):
        snapshot, manifest = _manifest_of(reference)
        commit, names = snapshot.name, files_for_engine(manifest, engine)
        partial = out.with_name(f".{out.name}.pull-{commit[:12]}")
        with _locked(partial):
            if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
                shutil.rmtree(partial)
                _require_same(out, snapshot, manifest, names, reference)
                return _pulled(out, commit, manifest, names)
            for name in (MANIFEST_NAME, _CARD, *names):
                source, place = resolve_path(snapshot, name), resolve_path(partial, name)
                if source.is_file() and not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    _copy(source, place)
                elif not place.exists() and name in manifest.files:
                    _download(reference.repository, commit, name, partial)
            _check(reference, partial, commit, manifest, names, names, partial)
            # The client's notes about its downloads.
            shutil.rmtree(partial / ".cache" / "huggingface", ignore_errors=True)
            with contextlib.suppress(OSError):  # a bundle's own files may lie there
                (partial / ".cache").rmdir()
            for name in names:
                flush_to_disk(resolve_path(partial, name))
            partial.rename(out)
            (out / _LOCK).unlink()
    return _pulled(out, commit, manifest, names)


def _manifest_of(reference: HubReference, files: Sequence[str] = (MANIFEST_NAME, _CARD)) -> tuple[Path, Manifest]:
    """The snapshot's folder in the cache, whose name is the commit, and the manifest in it; the other `files` come along."""
    snapshot = hub_client().snapshot_download(
        reference.repository, revision=reference.revision, allow_patterns=list(files), tqdm_class=silent_progress()
    )
    folder = Path(snapshot)
    try:
        return folder, read_manifest(folder)
    except SchemaVersionError:
        raise
    except BundleError as error:
        if not (folder / MANIFEST_NAME).exists():
            raise BundleError(
                f"{reference} is no bundle, because the repository has no {MANIFEST_NAME}: push one with "
                "`python -m exporter.publishing`"
            ) from error
        if is_offline():
            raise
    # The cache's copy may be damaged, which only a second download shows.
    _download(reference.repository, folder.name, MANIFEST_NAME, again=True)
    return folder, read_manifest(folder)


def _download(repository: str, commit: str, name: str, folder: Path | None = None, again: bool = False) -> None:
    """Download a file into the cache, or into a folder; `again`: also where it is there already."""
    hub_client().hf_hub_download(repository, name, revision=commit, local_dir=folder, force_download=again)


def _check(
    reference: HubReference,
    folder: Path,
    commit: str,
    manifest: Manifest,
    names: Sequence[str],
    with_checksum: Sequence[str],
    local_dir: Path | None,
) -> None:
    """Compare files with the manifest; a file that differs is downloaded once more.

    Raises:
        BundleError: a file differs again.
    """
    hashed = set(with_checksum)
    for name in names:
        problem = _problem(folder, manifest, name, name in hashed)
        if problem is None:
            continue
        if is_offline():
            raise HubError(
                f"{name} of {reference} {problem}, and HF_HUB_OFFLINE is set: unset it to download the file again"
            )
        _download(reference.repository, commit, name, local_dir, again=True)
        problem = _problem(folder, manifest, name, True)
        if problem is not None:
            raise BundleError(
                f"{name} of {reference} {problem}, also after a second download: take another revision, or tell its owner"
            )


def _problem(folder: Path, manifest: Manifest, name: str, with_checksum: bool) -> str | None:
    problem = file_problem(folder, manifest, name)
    if problem is None and with_checksum and file_sha256(resolve_path(folder, name)) != manifest.files[name].sha256:
        return "has another sha256 than the manifest says"
    return problem


def _require_same(out: Path, snapshot: Path, manifest: Manifest, names: Sequence[str], reference: HubReference) -> None:
    """Accept a folder that holds this very bundle already.

    Raises:
        HubError: it holds something else.
    """
    same = False
    with contextlib.suppress(OSError):
        same = (out / MANIFEST_NAME).read_bytes() == (snapshot / MANIFEST_NAME).read_bytes()
    problem = next((text for name in names if (text := _problem(out, manifest, name, True))), None) if same else None
    if not same or problem is not None:
        what = f"holds {reference} with a damaged or missing file" if same else f"exists and is not {reference}"
        raise HubError(f"{out} {what}: remove it, or pass another --out; nothing there was touched")


def _pulled(folder: Path, commit: str, manifest: Manifest, names: Sequence[str]) -> PulledBundle:
    return PulledBundle(folder, commit, tuple(names), sum(manifest.files[name].bytes for name in names))


def _copy(source: Path, place: Path) -> None:
    """Copy a file so that a kill leaves no half of it under its name."""
    temporary = place.with_name(f".{place.name}.copy")
    shutil.copyfile(source, temporary)
    temporary.replace(place)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Make a folder and hold the lock in it, which ends with the process, too.

    The holder may rename or remove the folder; whoever has waited for its lock then makes a new one.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            file = (folder / _LOCK).open("a")
        except FileNotFoundError:  # the folder was renamed in this moment
            continue
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            try:
                same = os.path.samestat(os.fstat(file.fileno()), os.stat(folder / _LOCK))
            except FileNotFoundError:
                same = False
            if same:
                yield
                return
