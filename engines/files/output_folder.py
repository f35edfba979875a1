"""The folder that a job writes into: local, or in a store that fsspec opens. A file has its final name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
import uuid
from pathlib import Path
from typing import IO, Protocol

from engines.errors import EngineError, InputError
from engines.files.durable import flush_to_disk
from engines.files.file_kinds import mode_of
from engines.files.remote_folder import RemoteFolder
from engines.files.storage import filesystem, is_remote, reading, writing
from engines.process.identity import has_ended, process_name

_LEFT_SECONDS = 7 * 86400  # age of an unfinished file of a job on another machine after which it is removed


class Folder(Protocol):
    """The folder of a job's output. Names are relative paths with ``/``; a file has its final name only when it is whole."""

    url: str

    def names(self) -> set[str]:
        """The names of all files in it that are not hidden."""

    def hidden(self, folder: str) -> set[str]:
        """The names of the files in one of the hidden folders, such as ``.job/locks``."""

    def read(self, name: str) -> bytes | None:
        """A small file's content; None where it is not there."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, replacing an older one at once."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a small file unless it is there already; whether it was written."""

    def remove(self, name: str) -> None:
        """Remove a file; no error where it is not there."""

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading at any position."""

    def unfinished(self) -> Path:
        """The path of a new local file, which `publish` moves to its final name, or `Path.unlink` removes."""

    def publish(self, file: Path, name: str) -> None:
        """Move an unfinished file to its final name."""

    def tidy(self) -> None:
        """Remove unfinished files: those of this folder object, and those of processes that were killed."""


def output_folder(path: str) -> Folder:
    """The folder for a job's output. Where it is missing it is made as soon as a file is written.

    Raises:
        InputError: it is a file, or cannot be reached.
    """
    if path.startswith(("file://", "local://")):
        return LocalFolder(Path(filesystem(path)[1]))
    return RemoteFolder(path.rstrip("/")) if is_remote(path) else LocalFolder(Path(path))


class LocalFolder:
    """A folder on a disk of this machine, or on one that machines share."""

    def __init__(self, path: Path) -> None:
        self.url, self._path = str(path), path
        mode = mode_of(path, f"--out {path}", InputError)
        if mode is not None and not stat.S_ISDIR(mode):
            raise InputError(f"--out {path} is a file: pass a folder")
        self._unfinished, self._owner = path / ".job" / "tmp", f"{process_name()} {uuid.uuid4().hex[:12]}"
        if mode is not None:
            with writing(self.url):
                self._sweep()

    def names(self) -> set[str]:
        """See `Folder`."""
        found: set[str] = set()
        with writing(self.url):
            for folder, folders, files in os.walk(self._path):
                folders[:] = [name for name in folders if not name.startswith((".", "_"))]
                place = os.path.relpath(folder, self._path)
                prefix = "" if place == "." else f"{place}/"
                found.update(f"{prefix}{name}" for name in files if not name.startswith((".", "_")))
        return found

    def hidden(self, folder: str) -> set[str]:
        """See `Folder`."""
        with writing(self.url):
            try:
                return {f"{folder}/{name}" for name in os.listdir(self._path / folder)}
            except FileNotFoundError:
                return set()

    def read(self, name: str) -> bytes | None:
        """See `Folder`."""
        try:
            return (self._path / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(f"cannot read {self._path / name}: {error.strerror or error}") from error

    def write(self, name: str, data: bytes) -> None:
        """See `Folder`."""
        with writing(self.url):
            file = self.unfinished()
            try:
                file.write_bytes(data)
                os.replace(file, self._parent(name))
            finally:
                file.unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """See `Folder`."""
        # A link to a file that is complete, because others would read a new file before its content is in it.
        with writing(self.url):
            file = self.unfinished()
            try:
                file.write_bytes(data)
                os.link(file, self._parent(name))
            except FileExistsError:
                return False
            except OSError as error:
                if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                    raise
                return self._create_without_links(self._path / name, data)
            finally:
                file.unlink(missing_ok=True)
        return True

    @staticmethod
    def _create_without_links(path: Path, data: bytes) -> bool:
        try:
            file = path.open("xb")
        except FileExistsError:
            return False
        try:
            with file:
                file.write(data)
        except OSError:  # a full disk
            path.unlink(missing_ok=True)
            raise
        return True

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with writing(self.url):
            (self._path / name).unlink(missing_ok=True)

    def open(self, name: str) -> IO[bytes]:
        """See `Folder`."""
        with reading(str(self._path / name)):
            return (self._path / name).open("rb")

    def unfinished(self) -> Path:
        """See `Folder`."""
        with writing(self.url):
            self._unfinished.mkdir(parents=True, exist_ok=True)
        return self._unfinished / f"{self._owner} {uuid.uuid4().hex}"

    def publish(self, file: Path, name: str) -> None:
        """See `Folder`."""
        with writing(self.url):
            try:
                flush_to_disk(file)
                target = self._parent(name)
                os.replace(file, target)
                flush_to_disk(target.parent)
            finally:
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """See `Folder`."""
        with contextlib.suppress(OSError):
            self._sweep(self._owner)

    def _sweep(self, owner: str | None = None) -> None:
        """Remove unfinished files of processes that were killed, and of an owner."""
        now = time.time()
        for entry in os.scandir(self._unfinished) if self._unfinished.is_dir() else ():
            with contextlib.suppress(OSError):  # another job may remove it at the same time
                ended = has_ended(entry.name.partition(" ")[0]) or now - entry.stat().st_mtime > _LEFT_SECONDS
                if ended or entry.name.rpartition(" ")[0] == owner:
                    os.unlink(entry.path)

    def _parent(self, name: str) -> Path:
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target
