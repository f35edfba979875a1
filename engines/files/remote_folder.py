"""A job's output folder in a store that fsspec opens, such as ``s3://bucket/folder``."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import IO, cast

from engines.errors import EngineError
from engines.files.storage import filesystem, reading, writing
from engines.process.identity import has_ended, process_name
from engines.process.optional import error_line

# Protocols whose stores show an object only when it is complete: no temporary name is needed there.
_WHOLE_OBJECTS = frozenset({"abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "r2", "s3", "s3a"})
_LOCAL_PREFIX = "openclip-engines-"  # of the local folders in which jobs keep unfinished files of a store


class RemoteFolder:
    """A folder in a store that fsspec opens. Unfinished files are local and are uploaded when they are complete."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._system, self._root = filesystem(url)
        self._root = self._root.rstrip("/")
        protocols = self._system.protocol
        names = {protocols} if isinstance(protocols, str) else set(protocols)
        self._whole_objects = bool(names & _WHOLE_OBJECTS)
        self._owner = process_name()
        self._sweep()
        self._local = Path(tempfile.mkdtemp(prefix=f"{_LOCAL_PREFIX}{self._owner}-"))

    def names(self) -> set[str]:
        """See `engines.files.output_folder.Folder`."""
        with writing(self.url):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._root)
            except FileNotFoundError:
                return set()
        names = (name[len(self._root) :].lstrip("/") for name in found)
        return {name for name in names if not any(part.startswith((".", "_")) for part in name.split("/"))}

    def hidden(self, folder: str) -> set[str]:
        """See `engines.files.output_folder.Folder`."""
        with writing(self.url):
            self._system.invalidate_cache()
            try:
                found = self._system.find(self._place(folder))
            except FileNotFoundError:
                return set()
        return {f"{folder}/{name.rpartition('/')[2]}" for name in found}

    def read(self, name: str) -> bytes | None:
        """See `engines.files.output_folder.Folder`."""
        try:
            self._system.invalidate_cache()
            return cast(bytes, self._system.cat_file(self._place(name)))
        except FileNotFoundError:
            return None
        except Exception as error:  # clients of stores have exceptions of their own
            raise EngineError(f"cannot read {self.url}/{name}: {error_line(error)}") from error

    def write(self, name: str, data: bytes) -> None:
        """See `engines.files.output_folder.Folder`."""
        with writing(self.url):
            self._parent(name)
            self._system.pipe_file(self._place(name), data)

    def create(self, name: str, data: bytes) -> bool:
        """See `engines.files.output_folder.Folder`."""
        # S3 and some others refuse to replace an object. In the rest two jobs may both believe that they were first; they then do
        # the same work, and the result is the same.
        with writing(self.url):
            self._parent(name)
            try:
                self._system.pipe_file(self._place(name), data, mode="create")
            except FileExistsError:
                return False
            except (OSError, TypeError, ValueError, NotImplementedError):  # a store that does not offer it
                if self.read(name) is not None:
                    return False
                self.write(name, data)
        return self.read(name) == data

    def remove(self, name: str) -> None:
        """See `engines.files.output_folder.Folder`."""
        with writing(self.url):
            try:
                self._system.rm_file(self._place(name))
            except FileNotFoundError:
                return

    def open(self, name: str) -> IO[bytes]:
        """See `engines.files.output_folder.Folder`."""
        with reading(f"{self.url}/{name}"):
            return cast(IO[bytes], self._system.open(self._place(name), "rb"))

    def unfinished(self) -> Path:
        """See `engines.files.output_folder.Folder`."""
        return self._local / f"{self._owner} {uuid.uuid4().hex}"

    def publish(self, file: Path, name: str) -> None:
        """See `engines.files.output_folder.Folder`."""
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
        """See `engines.files.output_folder.Folder`."""
        shutil.rmtree(self._local, ignore_errors=True)
        with contextlib.suppress(EngineError):  # what the job has made is whole all the same
            self._sweep()

    def _sweep(self) -> None:
        """Remove unfinished files of processes of this machine that were killed."""
        for folder in Path(tempfile.gettempdir()).glob(f"{_LOCAL_PREFIX}*"):
            if has_ended(folder.name.removeprefix(_LOCAL_PREFIX).rpartition("-")[0]):
                shutil.rmtree(folder, ignore_errors=True)
        for name in () if self._whole_objects else self.hidden(".job/tmp"):
            if has_ended(name.rpartition("/")[2].partition(" ")[0]):
                self.remove(name)

    def _place(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _parent(self, name: str) -> None:
        self._system.makedirs(self._place(name).rpartition("/")[0], exist_ok=True)
