"""The writer of a bundle's folder, all or nothing: it is written beside its place under another name, then renamed.

A process that is killed leaves its unfinished folder behind; the next export to the same place removes it. A bundle that is
replaced is moved aside first and deleted last; if the process ends in between, the next export puts it back.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from engines.errors import BundleError
from engines.files.checksums import file_sha256
from engines.files.durable import flush_to_disk
from engines.files.json_text import json_text
from engines.manifest import MANIFEST_NAME, File, Manifest, manifest_bytes, read_manifest
from exporter.errors import ExportError

REPORT_NAME = "report.json"


def check_destination(out: str | os.PathLike[str], force: bool, trial: bool = True) -> None:
    """Refuse a path where no bundle may be written; an empty folder is allowed, as is a path that does not exist.

    Args:
        out: the path of the bundle.
        force: whether a bundle at `out` may be replaced.
        trial: whether to make and remove a folder beside it; without that, only permissions are read.

    Raises:
        ExportError: `out` is a link, or exists and is a file, or not a bundle, or a bundle that may not be replaced because
            `force` is not set, or the folder in which it would be made cannot be written.
    """
    path = Path(os.path.abspath(out))
    with _sentences(path):
        if path.is_symlink():
            raise ExportError(f"{path} is a link: pass the folder it leads to as --out, or another one")
        if path.is_dir():
            if any(path.iterdir()):
                if not (path / MANIFEST_NAME).is_file():
                    raise ExportError(
                        f"{path} exists and is not a bundle: pass another --out; nothing there was touched"
                    )
                if not force:
                    raise ExportError(f"{path} exists: pass --force to replace it, or another --out")
        elif path.exists():
            raise ExportError(f"{path} exists and is a file: pass another --out")
        # A folder is made and removed, because permissions alone do not say whether one can be made.
        above = next((folder for folder in path.parents if folder.exists() or folder.is_symlink()), path)
        if trial:
            with tempfile.TemporaryDirectory(prefix=".openclip-engines-", dir=above):
                pass
        elif not os.access(above, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(above))


class BundleWriter:
    """Context manager: the caller fills `folder`, then calls `commit`; without a commit nothing is left.

    Args:
        out: the path of the finished bundle.
        force: whether a bundle at `out` may be replaced. Folders that are not bundles are never replaced.

    Raises:
        ExportError: `out` exists or cannot be written (on entry), or the disk is full (on commit).
    """

    folder: Path

    def __init__(self, out: str | os.PathLike[str], force: bool = False) -> None:
        self.out = Path(os.path.abspath(out))
        self.force = force
        self._committed = False

    def __enter__(self) -> BundleWriter:
        parent = self.out.parent
        with _sentences(self.out):
            parent.mkdir(parents=True, exist_ok=True)
            self._recover()
            check_destination(self.out, self.force)
            name = f".{self.out.name}.partial-{os.getpid()}-{_start_time(os.getpid())}-{secrets.token_hex(4)}"
            self.folder = parent / name
            self.folder.mkdir()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._committed:
            shutil.rmtree(self.folder, ignore_errors=True)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise ExportError(_no_space(self.out)) from error

    def preview(self, manifest: Manifest) -> Path:
        """Make the unfinished folder a bundle that can be loaded, and return it; `commit` writes the manifest anew."""
        with _sentences(self.out):
            (self.folder / MANIFEST_NAME).unlink(missing_ok=True)
            data = manifest_bytes(msgspec.structs.replace(manifest, files=self._files()))
            (self.folder / MANIFEST_NAME).write_bytes(data)
        return self.folder

    def commit(self, manifest: Manifest, report: dict[str, Any]) -> Path:
        """Write report and manifest, flush all files to the disk, and move the folder to its place.

        Args:
            manifest: the manifest without `files`; sizes and checksums are added here.
            report: the content of ``report.json``, as types that JSON has.

        Returns:
            The bundle's folder.

        Raises:
            ExportError: the manifest could not be read by a runtime; the disk is full; `out` appeared meanwhile.
        """
        with _sentences(self.out):
            (self.folder / REPORT_NAME).write_text(json_text(report) + "\n", encoding="utf-8")
            (self.folder / MANIFEST_NAME).unlink(missing_ok=True)  # the manifest of a preview
            files = self._files()
            for name in files:
                flush_to_disk(self.folder / name)
            whole = msgspec.structs.replace(manifest, files=files)
            (self.folder / MANIFEST_NAME).write_bytes(manifest_bytes(whole))
            self._check_readable()
            flush_to_disk(self.folder / MANIFEST_NAME)
            flush_to_disk(self.folder)
            check_destination(self.out, self.force)
            self._swap()
        return self.out

    def _check_readable(self) -> None:
        try:
            read_manifest(self.folder)
        except BundleError as error:
            why = str(error).removeprefix(f"{self.folder / MANIFEST_NAME} ").removeprefix("was edited, or is wrong: ")
            raise ExportError(f"no program could load this bundle: {why}; nothing was written") from error

    def _files(self) -> dict[str, File]:
        return {
            path.relative_to(self.folder).as_posix(): File(bytes=path.stat().st_size, sha256=file_sha256(path))
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }

    def _swap(self) -> None:
        old: Path | None = None
        if self.out.exists():
            old = self.out.with_name(f".{self.out.name}.replaced-{secrets.token_hex(4)}")
            self.out.rename(old)
        try:
            self.folder.rename(self.out)
        except OSError:
            if old is not None:
                old.rename(self.out)
            raise
        self._committed = True
        flush_to_disk(self.out.parent)
        if old is not None:
            shutil.rmtree(old, ignore_errors=True)

    def _recover(self) -> None:
        """Put back a bundle whose replacement was interrupted, and remove the folders that ended exports to this place left."""
        parent, name = self.out.parent, self.out.name
        replaced = sorted(parent.glob(f".{_escape(name)}.replaced-*"))
        for old in replaced:
            if not self.out.exists() and (old / MANIFEST_NAME).is_file():
                old.rename(self.out)
            else:
                shutil.rmtree(old, ignore_errors=True)
        for leftover in parent.glob(f".{_escape(name)}.partial-*"):
            pid, started, *_ = [*leftover.name.removeprefix(f".{name}.partial-").split("-"), ""]
            if not (pid.isdigit() and _start_time(int(pid)) == started):
                shutil.rmtree(leftover, ignore_errors=True)


def _escape(name: str) -> str:
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)


def _start_time(pid: int) -> str:
    """Return the start time of a process in the kernel's ticks, "" if it does not run; time and pid together are unique."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        return text.rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        if Path("/proc/self/stat").exists():
            return ""
    try:  # no /proc: only the pid can be checked
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "0"


@contextlib.contextmanager
def _sentences(out: Path) -> Any:
    """Turn errors of the file system into an `ExportError` that names the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            raise ExportError(_no_space(out)) from error
        raise ExportError(f"cannot write {out}: {error.strerror or error}; pass an --out that is writable") from error


def _no_space(out: Path) -> str:
    try:
        free = f" ({shutil.disk_usage(out.parent).free / 1e9:.1f} GB free)"
    except OSError:
        free = ""
    return f"no space left for {out}{free}: free some, or pass an --out on another disk; nothing was left there"
