"""The layout with one parquet file a shard: ``key, url, caption, embedding, error``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bulk.layouts import RECORD_KEY, Damaged, DType, LayoutName, NotOfAJob, Rows, ShardRecord, record_from
from engines.errors import EngineError, InputError
from engines.files.output_folder import Folder
from engines.files.parquet_library import import_parquet
from engines.files.storage import writing
from engines.manifest import TowerName
from engines.process.optional import error_line

_MAGIC = b"PAR1"  # the first and the last bytes of every parquet file
_TAIL_BYTES = 8  # length of the footer, and the magic
_GROUP_ROWS = 4096  # rows of a row group: so many embeddings are in memory before they are written


class ParquetLayout:
    """Shards of embeddings as parquet files.

    Args:
        towers: the job's towers. With one, the column is ``embedding``; with two, ``image_embedding`` and ``text_embedding``.
        dtype: the embeddings' type on disk.
        embed_dim: D.

    Raises:
        InputError: pyarrow is missing.
    """

    name: LayoutName = "parquet"

    def __init__(self, towers: tuple[TowerName, ...], dtype: DType, embed_dim: int) -> None:
        pa, self._parquet = import_parquet("writing parquet files")
        self._columns = {tower: "embedding" if len(towers) == 1 else f"{tower}_embedding" for tower in towers}
        vector = pa.list_(pa.float16() if dtype == "float16" else pa.float32(), embed_dim)
        self._schema = pa.schema(
            [
                pa.field("key", pa.string(), nullable=False),
                pa.field("url", pa.string()),
                pa.field("caption", pa.string()),
                *(pa.field(column, vector, nullable=False) for column in self._columns.values()),
                pa.field("error", pa.string()),
            ]
        )

    def done_name(self, shard: str) -> str:
        """See `Layout`."""
        return f"{shard}.parquet"

    def names(self, shard: str) -> tuple[str, ...]:
        """See `Layout`."""
        return (self.done_name(shard),)

    def read_record(self, folder: Folder, shard: str) -> ShardRecord:
        """See `Layout`."""
        with folder.open(self.done_name(shard)) as opened:
            return read_footer(opened, self._schema)

    def read_rows(self, folder: Folder, shard: str) -> _EarlierRows:
        """See `Layout`."""
        rows = read_batches(folder, self.done_name(shard), ["key", "error", *self._columns.values()])
        return _EarlierRows(rows, self._columns)

    def remove(self, folder: Folder, shard: str) -> None:
        """See `Layout`."""
        folder.remove(self.done_name(shard))

    def write(self, folder: Folder, shard: str) -> _Writer:
        """See `Layout`."""
        return _Writer(folder, self.done_name(shard), self._schema, self._columns)


def check_is_of_a_job(opened: Any) -> None:
    """Check that a job of this project may have written a file, so that it may be replaced.

    A parquet file with a footer is a job's if the footer has the record. Without a footer it is a job's that a disk or a copy cut
    off if it begins as every parquet file, or if it begins with zeros or is empty, as files whose content never reached the disk.

    Raises:
        InputError: it cannot be read now, so nobody knows.
        NotOfAJob: another program wrote it.
    """
    _, parquet = import_parquet("reading parquet files")
    try:  # the ends of the file that say what it is, so that an error of the disk or the network is not taken for damage
        size = opened.seek(0, 2)
        opened.seek(0)
        head = opened.read(len(_MAGIC))
        opened.seek(max(0, size - _TAIL_BYTES))
        tail = opened.read(_TAIL_BYTES)
        length = int.from_bytes(tail[:4], "little") if tail.endswith(_MAGIC) else 0
        opened.seek(max(0, size - _TAIL_BYTES - length))
        opened.read(length)
        opened.seek(0)
    except Exception as error:  # clients of stores have exceptions of their own
        raise InputError(f"it cannot be read ({error_line(error)})") from error
    try:
        metadata = parquet.ParquetFile(opened, pre_buffer=False).metadata.metadata
    except Exception as error:  # a damaged file raises errors of several classes
        if head not in (_MAGIC, bytes(len(head))):
            raise NotOfAJob("it is no parquet file") from error
        return
    if RECORD_KEY not in (metadata or {}):
        raise NotOfAJob("it is a parquet file without the record of a job")


def read_footer(opened: Any, schema: Any) -> ShardRecord:
    """The record of a parquet file whose footer is whole and agrees with it.

    Args:
        opened: the opened file.
        schema: the columns that it must have, a ``pyarrow.Schema``.

    Raises:
        InputError: the file cannot be read now.
        Damaged: the footer is missing or damaged, or the file has other columns or another number of rows.
        NotOfAJob: another program wrote the file.
    """
    _, parquet = import_parquet("reading parquet files")
    try:
        file = parquet.ParquetFile(opened, pre_buffer=False)
        found, rows, metadata = file.schema_arrow, file.metadata.num_rows, file.metadata.metadata
    except Exception as error:
        check_is_of_a_job(opened)
        raise Damaged(error_line(error)) from error
    if RECORD_KEY not in (metadata or {}):
        raise NotOfAJob("it is a parquet file without the record of a job")
    if not found.equals(schema):
        raise Damaged(f"it has the columns {', '.join(found.names)}, or others of their types")
    record = record_from(metadata)
    if rows != _rows_of(record, found.names):
        raise Damaged(f"it has {rows:,} rows, and its record says otherwise")
    return record


def _rows_of(record: ShardRecord, names: list[str]) -> int:
    # The layout `npy` keeps rows without embeddings apart.
    if any(name.endswith("embedding") for name in names):
        return record.rows
    return record.errors if "error" in names else record.rows - record.errors


def read_batches(folder: Folder, name: str, columns: list[str]) -> Iterator[tuple[Any, int]]:
    """The rows of a parquet file one after the other: (batch, index of the row in it).

    Raises:
        InputError: there is no such file.
        Damaged: it cannot be read to its end.
    """
    _, parquet = import_parquet("reading parquet files")
    with folder.open(name) as opened:
        try:
            for batch in parquet.ParquetFile(opened, pre_buffer=False).iter_batches(
                _GROUP_ROWS, columns=columns, use_threads=False
            ):
                for i in range(batch.num_rows):
                    yield batch, i
        except Exception as error:
            raise Damaged(error_line(error)) from error


class _EarlierRows:
    def __init__(self, rows: Iterator[tuple[Any, int]], columns: dict[TowerName, str]) -> None:
        self._rows, self._columns = rows, columns

    def take(self, key: str) -> dict[TowerName, npt.NDArray[np.float32]] | None:
        found = next(self._rows, None)
        if found is None:
            return None
        batch, i = found
        if batch.column("key")[i].as_py() != key:
            self._rows = iter(())  # these are not the rows of the input
            return None
        if batch.column("error")[i].is_valid:
            return None
        return {
            tower: np.asarray(batch.column(column)[i].values, np.float32) for tower, column in self._columns.items()
        }


class _Writer:
    several_files = False

    def __init__(self, folder: Folder, name: str, schema: Any, columns: dict[TowerName, str]) -> None:
        self._folder, self._name, self._columns = folder, name, columns
        self._file = ParquetFile(folder, schema)

    def add(self, rows: Rows) -> None:
        vectors = [(rows.embeds[tower], rows.present[tower]) for tower in self._columns]
        self._file.add([rows.keys, rows.urls, rows.captions, *vectors, rows.problems], len(rows.keys))

    def publish(self, record: ShardRecord) -> None:
        self._folder.publish(self._file.finish(record), self._name)

    def withdraw(self) -> None:
        self._folder.remove(self._name)

    def abandon(self) -> None:
        self._file.abandon()


class ParquetFile:
    """A parquet file that is written group by group under a temporary name.

    Args:
        folder: the folder that it will be published in.
        schema: the columns, a ``pyarrow.Schema``.
    """

    def __init__(self, folder: Folder, schema: Any) -> None:
        self._pa, parquet = import_parquet("writing parquet files")
        self._schema, self._place = schema, folder.url
        self.path: Path = folder.unfinished()
        self._batches: list[Any] = []
        self._waiting = 0
        with writing(self._place):
            # Embeddings do not compress, and dictionaries of them would only cost time.
            plain = [name for name in schema.names if name.endswith("embedding")]
            self._writer = parquet.ParquetWriter(
                self.path,
                schema,
                compression={name: "none" if name in plain else "zstd" for name in schema.names},
                use_dictionary=["error"] if "error" in schema.names else False,
                write_statistics=["key"],
            )

    def add(self, columns: list[Any], count: int) -> None:
        """Add rows.

        Args:
            columns: for each column of the schema a list, or a pair of (rows, D) values and (rows,) bool of those that are present.
            count: number of rows.
        """
        arrays = [self._array(values, field) for values, field in zip(columns, self._schema, strict=True)]
        self._batches.append(self._pa.record_batch(arrays, schema=self._schema))
        self._waiting += count
        if self._waiting >= _GROUP_ROWS:
            self._flush()

    def finish(self, record: ShardRecord) -> Path:
        """Write the footer with a record; returns the file's temporary path."""
        self._flush()
        with writing(self._place):
            self._writer.add_key_value_metadata(record.metadata())
            self._writer.close()
        return self.path

    def abandon(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError, ValueError, EngineError):  # a full disk, which is why it is abandoned
            self._writer.close()
        self.path.unlink(missing_ok=True)

    def _flush(self) -> None:
        if self._batches:
            with writing(self._place):
                self._writer.write_table(self._pa.Table.from_batches(self._batches))
            self._batches, self._waiting = [], 0

    def _array(self, values: Any, field: Any) -> Any:
        pa = self._pa
        if not isinstance(values, tuple):
            try:
                return pa.array(values, field.type)
            except UnicodeEncodeError:  # names of files that are no UTF-8
                whole = [
                    None if value is None else value.encode("utf-8", "backslashreplace").decode() for value in values
                ]
                return pa.array(whole, field.type)
        # Rows without an embedding are zeros and not null, because pyarrow before 26 cannot read null lists of a fixed size.
        vectors, present = values
        item = np.float16 if field.type.value_type == pa.float16() else np.float32
        flat = pa.array(np.ascontiguousarray(np.where(present[:, None], vectors, 0), dtype=item).reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, type=field.type)
