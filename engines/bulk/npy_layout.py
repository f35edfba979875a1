"""The layout of clip-retrieval: arrays in ``img_emb/`` and ``text_emb/``, rows that belong to them in ``metadata/``.

Rows without an embedding are in ``errors/``, because programs that read this layout take each row of an array for an embedding.

A shard has several files. A job whose lease was taken over while it published them removes them, and the shard is made again. What
no check finds: a job that is suspended for longer than a lease between two of its files, and killed as soon as it has published
the next one, if another job failed for other rows, equally many, in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from engines.bulk.layouts import Damaged, DType, LayoutName, NotOfAJob, Rows, ShardRecord
from engines.bulk.parquet_layout import ParquetFile, check_is_of_a_job, read_batches, read_footer
from engines.errors import EngineError, InputError
from engines.files.output_folder import Folder
from engines.files.parquet_library import import_parquet
from engines.files.storage import NotThereError, writing
from engines.manifest import TowerName
from engines.process.optional import error_line

_FOLDERS: dict[TowerName, str] = {"image": "img_emb", "text": "text_emb"}
ARRAY_FOLDERS = frozenset(_FOLDERS.values())
_HEADER_BYTES = 128
_READ_ROWS = 4096


class NpyLayout:
    """Shards of embeddings as arrays.

    Args:
        towers: the job's towers.
        dtype: the arrays' type.
        embed_dim: D.

    Raises:
        InputError: pyarrow is missing.
    """

    name: LayoutName = "npy"

    def __init__(self, towers: tuple[TowerName, ...], dtype: DType, embed_dim: int) -> None:
        pa, _ = import_parquet("writing metadata")
        self._towers, self._dtype, self._embed_dim = towers, np.dtype(dtype), embed_dim
        rows = [
            pa.field("key", pa.string(), nullable=False),
            pa.field("url", pa.string()),
            pa.field("caption", pa.string()),
        ]
        self._metadata = pa.schema(rows)
        self._errors = pa.schema([*rows, pa.field("error", pa.string())])

    def done_name(self, shard: str) -> str:
        """See `Layout`."""
        return _name("metadata", shard, "parquet")

    def names(self, shard: str) -> tuple[str, ...]:
        """See `Layout`."""
        return self.done_name(shard), _name("errors", shard, "parquet")

    def read_record(self, folder: Folder, shard: str) -> ShardRecord:
        """See `Layout`."""
        try:
            opened = folder.open(self.done_name(shard))
        except NotThereError:
            return self._read_empty(folder, shard)
        with opened:
            record = read_footer(opened, self._metadata)
        for tower in self._towers:
            self._check_array(folder, _name(_FOLDERS[tower], shard, "npy"), record.rows - record.errors)
        errors = _name("errors", shard, "parquet")
        if record.errors:
            self._check_errors(folder, errors, record)
        else:  # making the shard again would remove one
            with contextlib.suppress(NotThereError), folder.open(errors) as opened:
                check_is_of_a_job(opened)
        return record

    def _read_empty(self, folder: Folder, shard: str) -> ShardRecord:
        """The record of a shard in which no row has an embedding: it has only a file of errors."""
        with folder.open(_name("errors", shard, "parquet")) as opened:
            record = read_footer(opened, self._errors)
        if record.errors != record.rows:
            raise NotThereError(f"{self.done_name(shard)} is not there")
        return record

    def read_rows(self, folder: Folder, shard: str) -> _EarlierRows:
        """See `Layout`."""
        keys = read_keys(folder, self.done_name(shard))
        errors = read_keys(folder, _name("errors", shard, "parquet"))
        arrays = {tower: self._read_array(folder, _name(_FOLDERS[tower], shard, "npy")) for tower in self._towers}
        return _EarlierRows(keys, errors, arrays)

    def _read_array(self, folder: Folder, name: str) -> Iterator[npt.NDArray[np.float32]]:
        row_bytes = self._embed_dim * self._dtype.itemsize
        with folder.open(name) as file:
            file.seek(_HEADER_BYTES)
            while block := self._block(file, _READ_ROWS * row_bytes):
                yield from np.frombuffer(block, self._dtype).reshape(-1, self._embed_dim).astype(np.float32)

    @staticmethod
    def _block(file: IO[bytes], size: int) -> bytes:
        try:
            return file.read(size)
        except Exception as error:  # a disk's, or that of a store's client
            raise Damaged(error_line(error)) from error

    def remove(self, folder: Folder, shard: str) -> None:
        """See `Layout`."""
        folder.remove(self.done_name(shard))
        folder.remove(_name("errors", shard, "parquet"))
        for tower in self._towers:
            folder.remove(_name(_FOLDERS[tower], shard, "npy"))

    def write(self, folder: Folder, shard: str) -> _Writer:
        """See `Layout`."""
        arrays = {
            _name(_FOLDERS[tower], shard, "npy"): (tower, _ArrayFile(folder, self._dtype, self._embed_dim))
            for tower in self._towers
        }
        tables = (ParquetFile(folder, self._metadata), ParquetFile(folder, self._errors))
        names = self.names(shard)
        return _Writer(folder, arrays, tables, names)

    def _check_errors(self, folder: Folder, name: str, record: ShardRecord) -> None:
        try:
            with folder.open(name) as opened:
                same = read_footer(opened, self._errors) == record
        except NotOfAJob:
            raise
        except EngineError as error:
            raise Damaged(f"{name}: {error}") from error
        if not same:
            raise Damaged(f"{name} has another record than the metadata")

    def _check_array(self, folder: Folder, name: str, rows: int) -> None:
        try:
            with folder.open(name) as file:
                version = np.lib.format.read_magic(file)
                shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
                size = file.seek(0, 2)
        except Exception as error:  # clients of stores and NumPy's reader of headers have exceptions of their own
            raise Damaged(f"{name}: {error_line(error)}") from error
        whole = _HEADER_BYTES + rows * self._embed_dim * self._dtype.itemsize
        if (version, shape, fortran_order, dtype, size) != ((1, 0), (rows, self._embed_dim), False, self._dtype, whole):
            raise Damaged(
                f"{name} has {size:,} bytes, {shape} {dtype}, and not {whole:,} bytes, {(rows, self._embed_dim)}"
            )


def _name(folder: str, shard: str, suffix: str) -> str:
    return f"{folder}/{folder}_{shard.replace('/', '_')}.{suffix}"


def read_keys(folder: Folder, name: str) -> Iterator[str]:
    """The keys of a parquet file; none where there is no such file."""
    with contextlib.suppress(InputError):
        for batch, i in read_batches(folder, name, ["key"]):
            yield batch.column("key")[i].as_py()


class _EarlierRows:
    def __init__(
        self, keys: Iterator[str], errors: Iterator[str], arrays: dict[TowerName, Iterator[npt.NDArray[np.float32]]]
    ) -> None:
        self._keys, self._errors, self._arrays = keys, errors, arrays
        self._key, self._error = next(keys, None), next(errors, None)

    def take(self, key: str) -> dict[TowerName, npt.NDArray[np.float32]] | None:
        if key == self._key and key != self._error:
            self._key = next(self._keys, None)
            return {tower: next(rows) for tower, rows in self._arrays.items()}
        if key == self._error and key != self._key:
            self._error = next(self._errors, None)
        else:  # two rows with the same key, of which one failed: their order is not known
            self._key = self._error = None
        return None


class _Writer:
    several_files = True

    def __init__(
        self,
        folder: Folder,
        arrays: dict[str, tuple[TowerName, _ArrayFile]],
        tables: tuple[ParquetFile, ParquetFile],
        names: tuple[str, ...],
    ) -> None:
        self._folder, self._arrays, self._names = folder, arrays, names
        self._metadata, self._errors = tables

    def add(self, rows: Rows) -> None:
        good = np.array([problem is None for problem in rows.problems], dtype=bool)
        for tower, array in self._arrays.values():
            array.add(rows.embeds[tower][good])
        columns = (rows.keys, rows.urls, rows.captions)
        chosen, failed = np.flatnonzero(good), np.flatnonzero(~good)
        if len(chosen):
            self._metadata.add([[column[i] for i in chosen] for column in columns], len(chosen))
        if len(failed):
            self._errors.add([[column[i] for i in failed] for column in (*columns, rows.problems)], len(failed))

    def publish(self, record: ShardRecord) -> None:
        arrays = {name: array.finish() for name, (_, array) in self._arrays.items()}
        metadata, errors = self._metadata.finish(record), self._errors.finish(record)
        done_name, errors_name = self._names
        # If the job is killed here, metadata of an earlier run must not stand beside arrays of this one.
        self._folder.remove(done_name)
        if record.errors == record.rows:
            # Readers of this layout skip an empty array, but not its metadata, and would give later rows the wrong metadata.
            for name, file in arrays.items():
                file.unlink()
                self._folder.remove(name)
            metadata.unlink()
            self._folder.publish(errors, errors_name)
            return
        # Nor must errors of an earlier run, which alone are a whole shard where it had no embedding at all.
        self._folder.remove(errors_name)
        for name, file in arrays.items():
            self._folder.publish(file, name)
        if record.errors:
            self._folder.publish(errors, errors_name)
        else:
            errors.unlink()
        self._folder.publish(metadata, done_name)

    def withdraw(self) -> None:
        for name in (*self._names, *self._arrays):
            self._folder.remove(name)

    def abandon(self) -> None:
        self._metadata.abandon()
        self._errors.abandon()
        for _, array in self._arrays.values():
            array.abandon()


class _ArrayFile:
    """A .npy file whose number of rows is known only at its end: the header has a fixed size and is written last."""

    def __init__(self, folder: Folder, dtype: np.dtype[Any], embed_dim: int) -> None:
        self._dtype, self._embed_dim, self._place = dtype, embed_dim, folder.url
        self._rows = 0
        self.path: Path = folder.unfinished()
        with writing(self._place):
            self._file: IO[bytes] = self.path.open("wb")
            self._file.write(bytes(_HEADER_BYTES))

    def add(self, embeds: npt.NDArray[np.float32]) -> None:
        with writing(self._place):
            self._file.write(np.ascontiguousarray(embeds, dtype=self._dtype).data)
        self._rows += len(embeds)

    def finish(self) -> Path:
        header = (
            f"{{'descr': '{self._dtype.str}', 'fortran_order': False, 'shape': ({self._rows}, {self._embed_dim}), }}"
        )
        body = header.encode().ljust(_HEADER_BYTES - 11) + b"\n"
        with writing(self._place):
            self._file.seek(0)
            self._file.write(b"\x93NUMPY\x01\x00" + len(body).to_bytes(2, "little") + body)
            self._file.close()
        return self.path

    def abandon(self) -> None:
        with contextlib.suppress(OSError):  # a full disk, which is why it is abandoned
            self._file.close()
        self.path.unlink(missing_ok=True)
