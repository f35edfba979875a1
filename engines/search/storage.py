"""Files of one folder, on this machine or at a URL: the only place of this room that lists and opens files of embeddings."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from engines.errors import InputError
from engines.files.storage import filesystem, is_remote
from engines.process.optional import error_line


class Folder:
    """A folder that is only read: unlike `engines.files.output_folder.Folder` it makes nothing and removes nothing in it.

    Attributes:
        place: path or URL, as it stands in messages.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        """Name a folder.

        Args:
            place: a path, or a URL of any file system that fsspec has (``s3://…``, ``gs://…``, ``memory://…``).

        Raises:
            InputError: a URL, and fsspec or the file system's library is missing.
        """
        self.place = os.fspath(place).rstrip("/") or "/"
        self._system: Any = None
        self._root = self.place
        if is_remote(self.place):
            self._system, self._root = filesystem(self.place)

    def path(self, name: str) -> str:
        """Path or URL of a file in the folder, for messages."""
        return f"{self.place}/{name}"

    def names(self, suffix: str, under: str = "") -> list[str]:
        """The files with a suffix at any depth, relative to the folder, sorted. Names that begin with ``.`` or ``_`` are left out.

        Args:
            suffix: such as ``.parquet``.
            under: a folder in this one; without it, the whole folder.

        Returns:
            Names relative to this folder; none where `under` is not there.

        Raises:
            InputError: the folder cannot be listed.
        """
        names: list[str] = []
        with self._errors(under), suppress(FileNotFoundError):
            files = self._remote_files(under) if self._system is not None else self._local_files(under)
            names = [name for name in files if name.endswith(suffix)]
        return sorted(name for name in names if not any(part[0] in "._" for part in name.split("/")))

    @contextmanager
    def opened(self, name: str) -> Iterator[IO[bytes]]:
        """Open a file for reading at any position.

        Raises:
            InputError: the file is not there, or cannot be opened. Errors inside the block pass through.
        """
        with self._errors(name):
            file = self._open(f"{self._root}/{name}")
        with file:
            yield file

    def exists(self, name: str) -> bool:
        """Whether a file is there.

        Raises:
            InputError: the folder cannot be reached.
        """
        with self._errors(name):
            path = f"{self._root}/{name}"
            return bool(self._system.exists(path)) if self._system is not None else Path(path).exists()

    def _open(self, path: str) -> IO[bytes]:
        if self._system is not None:
            file: IO[bytes] = self._system.open(path, "rb")
            return file
        return open(path, "rb")

    def _local_files(self, under: str) -> Iterator[str]:
        top = Path(self._root)
        for folder, folders, files in os.walk(top / under, onerror=_raise):
            folders[:] = [name for name in folders if name[0] not in "._"]
            for name in files:
                yield (Path(folder) / name).relative_to(top).as_posix()

    def _remote_files(self, under: str) -> Iterator[str]:
        root = self._root.rstrip("/")
        for path in self._system.find(f"{root}/{under}".rstrip("/")):
            yield path[len(root) :].lstrip("/")

    @contextmanager
    def _errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError as error:
            raise InputError(f"{self.path(name).rstrip('/')} is not there: check the path") from error
        except Exception as error:  # a remote file system raises errors of its own
            reason = getattr(error, "strerror", None) or error_line(error)
            raise InputError(
                f"{self.path(name).rstrip('/')} cannot be read ({reason}): check the path and the access"
            ) from error


def _raise(error: OSError) -> None:
    raise error
