"""A long embedding job that can be killed at any time: finished parts on disk, put together at the end.

Parts lie in a hidden folder beside the output, together with a description of the job; a job with the same description goes on
where the last one stopped. Memory does not grow with the number of inputs.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError, InputError
from engines.optional import import_or_reason

PART_ROWS = 1024
SUFFIXES = (".npy", ".parquet")
_JOB_NAME = "job.json"

# Embeds some items: (kept indices, embeddings (kept, D), messages of the skipped ones by index).
EmbedItems = Callable[[Sequence[str]], tuple[list[int], npt.NDArray[np.float32] | None, dict[int, str]]]


@dataclass(frozen=True)
class JobResult:
    """What came out of a job."""

    rows: int
    skipped: tuple[tuple[str, str], ...]  # item, message
    files: tuple[Path, ...]  # written


class EmbedJob:
    """Embeds `items` into `out`.

    Args:
        items: file names, or texts.
        out: ``.npy`` (embeddings (N, D) float32, with the items in ``<stem>.items.txt``) or ``.parquet`` (columns ``item`` and
            ``embedding``).
        identity: names model and engine; a job with another identity does not continue this one.
    """

    def __init__(self, items: Sequence[str], out: Path, identity: str) -> None:
        if out.suffix not in SUFFIXES:
            raise InputError(f"--out {out} must end in {' or '.join(SUFFIXES)}")
        if out.suffix == ".parquet":
            _import_parquet()
        if not out.parent.is_dir():
            raise InputError(f"the folder of --out {out} is not there: make it first")
        if out.is_dir():
            raise InputError(f"--out {out} is a folder: pass a file")
        self.items, self.out = items, out
        self.folder = out.parent / f".{out.name}.parts"
        digest = hashlib.sha256(identity.encode())
        for item in items:
            digest.update(item.encode("utf-8", "surrogateescape") + b"\0")
        self.description = {"format": 1, "items": len(items), "digest": digest.hexdigest(), "part_rows": PART_ROWS}

    @property
    def parts(self) -> int:
        """How many parts the job has."""
        return -(-len(self.items) // PART_ROWS)

    def open(self) -> int:
        """Prepare the folder of parts; returns how many items are done already."""
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
        done = [index for index in range(self.parts) if self._part(index).is_file()]
        return sum(len(self._rows(index)) for index in done)

    def run(self, embed: EmbedItems, progress: Callable[[int], None]) -> None:
        """Embed the parts that are missing; `progress` is told how many items each one had."""
        for index in range(self.parts):
            if self._part(index).is_file():
                continue
            items = [self.items[row] for row in self._rows(index)]
            kept, embeds, skipped = embed(items)
            with _disk_errors(self.out):
                self._save(index, kept, embeds, skipped)
            progress(len(items))

    def finish(self) -> JobResult:
        """Put the parts together, in one rename, and remove them."""
        skipped: list[tuple[str, str]] = []
        count = width = 0
        for index in range(self.parts):
            part = self._load(index)
            count += len(part["embeds"])
            width = max(width, part["embeds"].shape[1])
            rows = self._rows(index)
            skipped += [(self.items[rows[int(i)]], message) for i, message in json.loads(str(part["skipped"])).items()]
        if not count:
            shutil.rmtree(self.folder, ignore_errors=True)
            first = f": {skipped[0][1]}" if skipped else ""
            raise InputError(f"none of {len(self.items)} inputs could be embedded{first}")
        with _disk_errors(self.out):
            write = self._finish_npy if self.out.suffix == ".npy" else self._finish_parquet
            files = [*write(count, width)]
            listing = self.out.with_suffix(".skipped.txt")
            if skipped:
                _write(
                    listing,
                    "".join(f"{item}\t{message}\n" for item, message in skipped).encode("utf-8", "surrogateescape"),
                )
                files.append(listing)
            else:
                listing.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        return JobResult(count, tuple(skipped), tuple(files))

    def _rows(self, index: int) -> range:
        return range(index * PART_ROWS, min((index + 1) * PART_ROWS, len(self.items)))

    def _part(self, index: int) -> Path:
        return self.folder / f"part-{index:08d}.npz"

    def _save(
        self, index: int, kept: list[int], embeds: npt.NDArray[np.float32] | None, skipped: dict[int, str]
    ) -> None:
        temporary = self._part(index).with_suffix(".tmp")
        with temporary.open("wb") as file:
            np.savez(
                file,
                kept=np.array(kept, dtype=np.int64),
                embeds=np.zeros((0, 0), np.float32) if embeds is None else embeds,
                skipped=np.array(json.dumps(skipped)),
            )
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._part(index))

    def _load(self, index: int) -> dict[str, Any]:
        try:
            with np.load(self._part(index), allow_pickle=False) as part:
                return dict(part)
        except (OSError, ValueError, EOFError) as error:
            raise EngineError(
                f"{self._part(index)} is damaged ({error}): delete {self.folder} and start again"
            ) from error

    def _kept(self) -> Iterator[tuple[list[str], npt.NDArray[np.float32]]]:
        for index in range(self.parts):
            part = self._load(index)
            rows = self._rows(index)
            if len(part["kept"]):
                yield [self.items[rows[int(i)]] for i in part["kept"]], part["embeds"]

    def _finish_npy(self, count: int, width: int) -> list[Path]:
        temporary, names = self.folder / "all.npy", self.folder / "items.txt"
        header = {"descr": "<f4", "fortran_order": False, "shape": (count, width)}
        listing_file = names.open("w", encoding="utf-8", errors="surrogateescape", newline="\n")
        # Plain writes: a full disk is an error here, and a bus error in a memory map.
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
        pa, parquet = _import_parquet()
        schema = pa.schema([("item", pa.string()), ("embedding", pa.list_(pa.float32(), width))])
        temporary = self.folder / "all.parquet"
        with parquet.ParquetWriter(temporary, schema) as writer:
            for items, embeds in self._kept():
                rows = pa.FixedSizeListArray.from_arrays(pa.array(embeds.reshape(-1)), width)
                names = pa.array([item.encode("utf-8", "replace").decode() for item in items])
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


def _import_parquet() -> tuple[Any, Any]:
    found = []
    for module in ("pyarrow", "pyarrow.parquet"):
        library = import_or_reason(module, "pyarrow", "pip install 'openclip-engines[parquet]'")
        if isinstance(library, str):
            raise InputError(f"writing .parquet needs pyarrow, or pass --out x.npy: {library}")
        found.append(library)
    return found[0], found[1]


class _disk_errors:
    """File system errors as one sentence; the parts stay, so that the job can go on."""

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
