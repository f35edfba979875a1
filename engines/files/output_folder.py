"""The folder that a job writes into: local, or in a store that fsspec opens. A file has its final name only when it is whole."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import tempfile
import time
import uuid
from pathlib import Path
from typing import IO, Protocol, cast

from engines.errors import EngineError, InputError
from engines.files.durable import flush_to_disk
from engines.files.file_kinds import mode_of
from engines.files.storage import filesystem, is_remote, reading, writing
from engines.process.identity import has_ended, process_name
from engines.process.optional import error_line

# Protocols whose stores show an object only when it is complete: no temporary name is needed there.
_WHOLE_OBJECTS = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "r2", "s3", "s3a"})
_LEFT_SECONDS = 7 * 86400  # age of an unfinished file of a job on another machine after which it is removed


class Folder(Protocol):
    """The folder of a job's output. Names are relative paths with ``/``; a file has its final name only when it is whole."""

    url: str

    def names(self) -> set[str]:
        """The names of all files in it that are not hidden."""

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
        """Remove the local folder of unfinished files, as far as this process made it."""


def output_folder(path: str) -> Folder:
    """The folder for a job's output, which is made where it is missing.

    Raises:
        InputError: it is a file, or cannot be reached.
        EngineError: it cannot be made.
    """
    return RemoteFolder(path.rstrip("/")) if is_remote(path) else LocalFolder(Path(path))


class LocalFolder:
    """A folder on a disk of this machine, or on one that machines share."""

    def __init__(self, path: Path) -> None:
        self.url, self._path = str(path), path
        mode = mode_of(path, f"--out {path}", InputError)
        if mode is not None and not stat.S_ISDIR(mode):
            raise InputError(f"--out {path} is a file: pass a folder")
        self._unfinished = path / ".job" / "tmp"
        with writing(self.url):
            self._unfinished.mkdir(parents=True, exist_ok=True)
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
            file.write_bytes(data)
            self._move(file, self._parent(name))

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
            with path.open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
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
        return self._unfinished / f"{process_name()} {uuid.uuid4().hex}"

    def publish(self, file: Path, name: str) -> None:
        """See `Folder`."""
        with writing(self.url):
            flush_to_disk(file)
            target = self._parent(name)
            self._move(file, target)
            flush_to_disk(target.parent)

    def tidy(self) -> None:
        """Nothing: other jobs may use the folder."""

    def _sweep(self) -> None:
        """Remove unfinished files of processes that were killed."""
        now = time.time()
        for entry in os.scandir(self._unfinished):
            with contextlib.suppress(OSError):  # another job may remove it at the same time
                if has_ended(entry.name.partition(" ")[0]) or now - entry.stat().st_mtime > _LEFT_SECONDS:
                    os.unlink(entry.path)

    def _parent(self, name: str) -> Path:
        target = self._path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    @staticmethod
    def _move(file: Path, target: Path) -> None:
        try:
            os.replace(file, target)
        except BaseException:
            file.unlink(missing_ok=True)
            raise


class RemoteFolder:
    """A folder in a store that fsspec opens. Unfinished files are local and are uploaded when they are complete."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._root = filesystem(url)
        self._root = self._root.rstrip("/")
        self._local = Path(tempfile.mkdtemp(prefix="openclip-engines-"))
        protocols = self._system.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._whole_objects = bool(names & _WHOLE_OBJECTS)

    def names(self) -> set[str]:
        """See `Folder`."""
        with writing(self.url):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root)
            except FileNotFoundError:
                return set()
        names = (name[len(self._root) :].lstrip("/") for name in found)
        return {name for name in names if not any(part.startswith((".", "_")) for part in name.split("/"))}

    def read(self, name: str) -> bytes | None:
        """See `Folder`."""
        try:
            self._system.invalidate_cache()
            return cast(bytes, self._system.cat_file(self._place(name)))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise EngineError(f"cannot read {self.url}/{name}: {error_line(error)}") from error

    def write(self, name: str, data: bytes) -> None:
        """See `Folder`."""
        with writing(self.url):
            self._parent(name)
            self._system.pipe_file(self._place(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """See `Folder`."""
        # Few stores refuse to replace an object, so two jobs may both believe that they were first. They then do the same work,
        # and the result is the same.
        if self.read(name) is not None:
            return False
        self.write(name, data)
        return self.read(name) == data

    def remove(self, name: str) -> None:
        """See `Folder`."""
        with writing(self.url):
            try:
                self._system.rm_file(self._place(name))
            except FileNotFoundError:
                return

    def open(self, name: str) -> IO[bytes]:
        """See `Folder`."""
        with reading(f"{self.url}/{name}"):
            return cast(IO[bytes], self._system.open(self._place(name), "rb"))

    def unfinished(self) -> Path:
        """See `Folder`."""
        return self._local / uuid.uuid4().hex

    def publish(self, file: Path, name: str) -> None:
        """See `Folder`."""
        with writing(self.url):
            self._parent(name)
            try:
                if self._whole_objects:
                    self._system.put_file(str(file), self._place(name))
                else:
                    temporary = self._place(f".job/tmp/{file.name}")
                    self._parent(f".job/tmp/{file.name}")
                    self._system.put_file(str(file), temporary)
                    self._system.mv(temporary, self._place(name))
            finally:
                file.unlink(missing_ok=True)

    def tidy(self) -> None:
        """See `Folder`."""
        shutil.rmtree(self._local, ignore_errors=True)

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _parent(self, name: str) -> None:
        self._system.makedirs(self._place(name).rpartition("/")[0], exist_ok=True)
