"""A long embedding job that can be killed at any time: it writes finished parts to disk and joins them at the end.

Parts lie in a hidden folder beside the output, together with a description of the job; a job with the same description continues
where the last one stopped. Files of finished parts that have changed since (size, or time of the last change) and files that could
not be read are embedded again, so that the result equals that of a job without a stop. Memory grows with the number of inputs only
by their names.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.commands.embed_part import Part, load_part, save_part, stat_files
from engines.errors import EngineError, InputError
from engines.files.file_kinds import mode_of
from engines.files.parquet_library import import_parquet
from engines.process.terminal import visible

PART_ROWS = 1024
SUFFIXES = (".npy", ".parquet")
_JOB_NAME = "job.json"
_FORMAT = 2  # version of the parts' file format; parts of another version are deleted

# A function that embeds some items; it returns (indices of the embedded items, embeddings (embedded, D), messages of the skipped
# items by index).
EmbedItems = Callable[[Sequence[str]], tuple[list[int], npt.NDArray[np.float32] | None, dict[int, str]]]


@dataclass(frozen=True)
class Resumed:
    """The state of a job that an earlier run left on disk."""

    done: int  # number of items that need no more work
    again: int  # number of items in finished parts that changed since, or could not be read


@dataclass(frozen=True)
class JobResult:
    """The result of a job."""

    rows: int
    skipped: tuple[tuple[str, str], ...]  # item, message
    files: tuple[Path, ...]  # the files that were written


class EmbedJob:
    """A job that embeds `items` into the file `out`.

    Args:
        items: file names, or texts.
        out: ``.npy`` (embeddings (N, D) float32, with the items in ``<stem>.items.txt``) or ``.parquet`` (columns ``item`` and
            ``embedding``).
        identity: text that identifies model and engine; a job with another identity does not continue this one.
        are_files: whether items name files, which can change between a stop and the next run.
    """

    def __init__(self, items: Sequence[str], out: Path, identity: str, are_files: bool = False) -> None:
        if out.suffix not in SUFFIXES:
            raise InputError(f"--out {out} must end in {' or '.join(SUFFIXES)}")
        if out.suffix == ".parquet":
            import_parquet("writing .parquet (or pass --out x.npy)")
        folder, file = (
            mode_of(out.parent, f"the folder of --out {out}", InputError),
            mode_of(out, f"--out {out}", InputError),
        )
        if folder is None or not stat.S_ISDIR(folder):
            raise InputError(f"the folder of --out {out} is not there: make it first")
        if file is not None and stat.S_ISDIR(file):
            raise InputError(f"--out {out} is a folder: pass a file")
        self.items, self.out, self.are_files = items, out, are_files
        self._again: dict[int, list[int]] = {}  # index of a part to the items in it that are embedded again
        self.folder = out.parent / f".{out.name}.parts"
        digest = hashlib.sha256(identity.encode())
        for item in items:
            data = item.encode("utf-8", "surrogatepass")
            digest.update(b"%d:" % len(data) + data)
        self.description = {
            "format": _FORMAT,
            "items": len(items),
            "digest": digest.hexdigest(),
            "part_rows": PART_ROWS,
        }

    @property
    def parts(self) -> int:
        """The number of the job's parts."""
        return -(-len(self.items) // PART_ROWS)

    def open(self) -> Resumed:
        """Prepare the folder of parts, and inspect the parts that an earlier run left in it."""
        self._again.clear()
        with _disk_errors(self.out):
            job = self.folder / _JOB_NAME
            try:
                matches = json.loads(job.read_text(encoding="utf-8")) == self.description
            except (OSError, ValueError):
                matches = False
            if not matches:
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder.mkdir()
                _write(job, json.dumps(self.description).encode())
            done = sum(self._inspect(index) for index in range(self.parts) if os.path.isfile(self._part(index)))
        return Resumed(done, sum(map(len, self._again.values())))

    def run(self, embed: EmbedItems, progress: Callable[[int], None]) -> None:
        """Embed the missing items; `progress` gets the number of items that each part still lacked."""
        for index in range(self.parts):
            whole = not os.path.isfile(self._part(index))
            rows = list(range(len(self._rows(index)))) if whole else self._again.get(index, [])
            if not rows:
                continue
            part_rows = self._rows(index)
            items = [self.items[part_rows[row]] for row in rows]
            stats = self._stats(items)  # before the files are read, so that the next run notices changes meanwhile
            embedded, embeds, skipped = embed(items)
            part = Part(
                np.array(embedded, dtype=np.int64),
                np.zeros((0, 0), np.float32) if embeds is None else embeds,
                skipped,
                stats,
            )
            with _disk_errors(self.out):
                self._save(index, part if whole else load_part(self._part(index)).replace(rows, part))
            progress(len(rows))
        self._again.clear()

    def finish(self) -> JobResult:
        """Join the parts, move the result to its place in one rename, and remove the parts."""
        skipped: list[tuple[str, str]] = []
        count = width = 0
        for index in range(self.parts):
            part = load_part(self._part(index))
            count += len(part.embeds)
            width = max(width, part.embeds.shape[1])
            rows = self._rows(index)
            skipped += [(self.items[rows[i]], message) for i, message in sorted(part.skipped.items())]
        if not count:
            shutil.rmtree(self.folder, ignore_errors=True)
            first = f": {skipped[0][1]}" if skipped else ""
            raise InputError(f"none of {len(self.items)} inputs could be embedded{first}")
        with _disk_errors(self.out):
            write = self._finish_npy if self.out.suffix == ".npy" else self._finish_parquet
            files = [*write(count, width)]
            listing = self.out.with_suffix(".skipped.txt")
            if skipped:
                lines = "".join(f"{_one_line(item)}\t{visible(message)}\n" for item, message in skipped)
                _write(listing, lines.encode("utf-8", "surrogateescape"))
                files.append(listing)
            else:
                listing.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return JobResult(count, tuple(skipped), tuple(files))

    def _rows(self, index: int) -> range:
        return range(index * PART_ROWS, min((index + 1) * PART_ROWS, len(self.items)))

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index:08d}.npz"

    def _stats(self, items: Sequence[str]) -> npt.NDArray[np.int64]:
        return stat_files(items) if self.are_files else np.zeros((0, 2), np.int64)

    def _inspect(self, index: int) -> int:
        """The number of items in an existing part that need no more work; the others are noted. A damaged part is removed."""
        rows = self._rows(index)
        try:
            part = load_part(self._part(index), with_embeds=False)
            if len(part.kept) + len(part.skipped) != len(rows):
                raise ValueError("it has another number of items")
            again = part.stale([self.items[row] for row in rows]) if self.are_files else []
        except (EngineError, ValueError):
            self._part(index).unlink()
            return 0
        if again:
            self._again[index] = again
        return len(rows) - len(again)

    def _save(self, index: int, part: Part) -> None:
        save_part(self._part(index), part)

    def _kept(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        for index in range(self.parts):
            part = load_part(self._part(index))
            rows = self._rows(index)
            if len(part.kept):
                yield [self.items[rows[int(i)]] for i in part.kept], part.embeds

    def _finish_npy(self, count: int, width: int) -> list[Path]:
        temporary, names = self.folder / "all.npy", self.folder / "items.txt"
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        listing_file = names.open("w", encoding="utf-8", errors="surrogateescape", newline="\n")
        # Plain writes, because a full disk raises an error here and would be a bus error in a memory map.
        with temporary.open("wb") as array, listing_file as file:
            np.lib.format.write_array_header_1_0(array, header)
            for items, embeds in self._kept():
                array.write(np.ascontiguousarray(embeds, dtype="<f4").data)
                file.writelines(f"{_one_line(item)}\n" for item in items)
        listing = self.out.with_suffix(".items.txt")
        names.replace(listing)
        temporary.replace(self.out)
        return [self.out, listing]

    def _finish_parquet(self, count: int, width: int) -> list[Path]:
        pa, parquet = import_parquet("writing .parquet")
        schema = pa.schema([("item", pa.string()), ("embedding", pa.list_(pa.float32(), width))])
        temporary = self.folder / "all.parquet"
        with parquet.ParquetWriter(temporary, schema) as writer:
            for items, embeds in self._kept():
                rows = pa.FixedSizeListArray.from_arrays(pa.array(embeds.reshape(-1)), width)
                names = pa.array([item.encode("utf-8", "backslashreplace").decode() for item in items])
                writer.write_table(pa.Table.from_arrays([names, rows], schema=schema))
        temporary.replace(self.out)
        return [self.out]


def _one_line(item: str) -> str:
    """An item on a line of its own: line breaks in texts and odd file names become spaces."""
    return " ".join(item.splitlines()) if len(item.splitlines()) > 1 else item.rstrip("\r\n")


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


class _disk_errors:
    """A context that turns file system errors into one sentence; the parts stay, so that the job can continue."""

    def __init__(self, out: Path) -> None:
        self.out = out

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if not isinstance(error, OSError):
            return
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise EngineError(
                f"no space left while writing {self.out}: free some and run the same command again, it goes on where it stopped"
            ) from error
        raise EngineError(f"cannot write {self.out}: {error.strerror or error}") from error
