"""Files and output folders: local paths by the system's own calls, and URLs such as ``s3://bucket/file`` by fsspec."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, cast

from engines.errors import EngineError, InputError
from engines.files.file_kinds import mode_of
from engines.process.optional import error_line, import_or_reason

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Names that file systems of fsspec give to an ETag, a checksum, or the time of the last change.
_VERSION_FIELDS = ("ETag", "etag", "md5Hash", "blob_id", "LastModified", "mtime", "created")


def is_remote(path: str) -> bool:
    """Whether a path is a URL that fsspec opens: ``s3://…``, and also ``file://…``."""
    return "://" in path


def open_input(path: str) -> IO[bytes]:
    """Open a file for reading from its start.

    Raises:
        InputError: it is not there, or cannot be opened.
    """
    if is_remote(path):
        with reading(path):
            system, name = filesystem(path)
            return cast(IO[bytes], _StoreFile(path, system.open(name, "rb")))
    mode = mode_of(path, path, InputError)
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{path} is not a regular file: pass a file")
    with reading(path):
        return open(path, "rb")


def version_of(path: str) -> str:
    """A text that is another one after the file was changed: its size, and its ETag or the time of its last change.

    Raises:
        InputError: it is not there, or cannot be reached.
    """
    with reading(path):
        if not is_remote(path):
            state = os.stat(path)
            return f"{state.st_size} {state.st_mtime_ns}"
        system, name = filesystem(path)
        info = system.info(name)
        tag = next((info[key] for key in _VERSION_FIELDS if info.get(key)), "")
        return f"{info.get('size')} {tag}"


def matching(pattern: str) -> list[str]:
    """The files that a pattern with ``*``, ``?`` or ``[…]`` matches, sorted; URLs keep their protocol."""
    if not is_remote(pattern):
        import glob

        return sorted(name for name in glob.glob(pattern, recursive=True) if os.path.isfile(name))
    with reading(pattern):
        system, name = filesystem(pattern)
        return sorted(system.unstrip_protocol(found) for found in system.glob(name))


def filesystem(url: str) -> tuple[Any, str]:
    """The file system of fsspec and the path in it that a URL names.

    Raises:
        InputError: fsspec, or the library that it needs for the protocol, is missing; or the protocol is unknown.
    """
    fsspec = import_or_reason("fsspec", "fsspec", "pip install 'openclip-engines[remote]'")
    if isinstance(fsspec, str):
        raise InputError(f"reading and writing {url} needs fsspec: {fsspec}")
    try:
        system, name = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise InputError(f"{url} cannot be opened: {error_line(error)} (by pip, into this environment)") from error
    except ValueError as error:
        raise InputError(f"{url} cannot be opened: {error_line(error)}") from error
    return system, name


class NotThereError(InputError):
    """A file is not there. Any other error of reading leaves open whether it is."""


@contextmanager
def reading(path: str) -> Iterator[None]:
    """A context that turns errors of a file or a store into an `InputError` with the path, a `NotThereError` where it is missing.

    Clients of stores have exceptions of their own, such as those for missing credentials.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise NotThereError(f"{path} is not there") from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error_line(error)}") from error
    except EngineError:
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise InputError(f"cannot read {path}: {error_line(error)}") from error


@contextmanager
def writing(path: str) -> Iterator[None]:
    """A context that turns errors of a disk or a store into an `EngineError` with the path and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise EngineError(
                f"no space left while writing {path}: free some and run the same command again, it goes on where it stopped"
            ) from error
        raise EngineError(f"cannot write {path}: {error.strerror or error_line(error)}") from error
    except EngineError:
        raise
    except Exception as error:
        if not is_remote(path):
            raise
        raise EngineError(f"cannot write {path}: {error_line(error)}") from error


class _StoreFile(io.RawIOBase):
    """A file of a store. An error of the network is an `InputError`, which nothing takes for damage of the file."""

    def __init__(self, url: str, file: Any) -> None:
        self._url, self._file = url, file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return bool(self._file.seekable())

    def read(self, size: int = -1, /) -> bytes:
        with reading(self._url):
            return cast(bytes, self._file.read(size))

    def seek(self, position: int, whence: int = 0, /) -> int:
        return int(self._file.seek(position, whence))

    def tell(self) -> int:
        return int(self._file.tell())

    def close(self) -> None:
        self._file.close()
        super().close()
