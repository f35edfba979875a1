"""The shards of a folder of embeddings, in either layout: blocks of vectors, and the metadata of single rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from engines.bulk.layouts import RECORD_KEY
from engines.errors import EngineError, InputError
from engines.files.parquet_library import import_parquet
from engines.manifest import TowerName
from engines.process.optional import error_line
from engines.search.job import read_job
from engines.search.storage import Folder

BLOCK = 8192  # rows of a block: 8 MB of float16 with 512 dimensions
# pyarrow's own threads are not used, because with Python's file objects a program can abort or hang at its end (Apache Arrow's
# issues 34314 and 50482). Shards are read in threads of this project.
_ONE_THREAD = {"use_threads": False}
_ARRAYS = {"image": "img_emb", "text": "text_emb"}  # clip-retrieval's names
_ROW_BITS = 40  # a position is a shard's number, then a row's number in these bits
TEXTS = ("key", "url", "caption")


@dataclass(frozen=True)
class Row:
    """Metadata of a row of a shard.

    Attributes:
        key, url, caption: of the sample; url and caption may be missing.
        shard: name of the shard's file, relative to the folder.
        row: number of the row in that file.
        input: path or URL of the file or folder that the sample was read from.
        kind: ``tar``, ``parquet``, ``files`` or ``lines``.
    """

    key: str
    url: str | None
    caption: str | None
    shard: str
    row: int
    input: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Block:
    """Embeddings of consecutive rows of a shard; rows without an embedding are left out.

    Attributes:
        vectors: (n, D) float16 or float32, of unit length.
        positions: (n,) int64, ascending: shard and row, see `Shards.rows`.
        texts: a pyarrow.RecordBatch with the n rows' key, url and caption, where `Shards.blocks` was called with `texts`.
    """

    vectors: npt.NDArray[Any]
    positions: npt.NDArray[np.int64]
    texts: Any = None


class Shards:
    """An opened folder of embeddings.

    Attributes:
        folder: where the files are.
        job: description of the job.
        tower: the tower whose embeddings are read.
        names: the shards' parquet files, sorted. Their order is the order of positions.
    """

    def __init__(self, folder: Folder, tower: TowerName | None = None) -> None:
        """Open a folder.

        Args:
            folder: path or URL.
            tower: which embeddings; None is the image tower's, or those of the only tower.

        Raises:
            InputError: it is no such folder, it has no embeddings of that tower or no shard, or pyarrow is missing.
        """
        self._pa, self._parquet = import_parquet("reading embeddings and their metadata")
        self.folder, self.job = folder, read_job(folder)
        self.tower = tower or ("image" if "image" in self.job.towers else self.job.towers[0])
        if self.tower not in self.job.towers:
            raise InputError(
                f"{folder.place} has no embeddings of the {tower} tower: pass --tower {self.job.towers[0]}"
            )
        self._npy = self.job.layout == "npy"
        self.names = folder.names(".parquet", "metadata") if self._npy else folder.names(".parquet")
        if not self.names:
            raise InputError(
                f"{folder.place} has no finished shard yet: run the job to its end, or wait for its first shard"
            )

    def blocks(self, shard: int, texts: bool = False) -> Iterator[Block]:
        """Blocks of one shard, read one after the other.

        Args:
            shard: index in `names`.
            texts: also read key, url and caption of the rows.

        Raises:
            InputError: the shard is damaged, or its embeddings have another type or width than the job says.
        """
        with self._read(self.names[shard]) as parquet:
            rows = parquet.metadata.num_rows
            parts = self._from_arrays(shard, parquet, rows, texts) if self._npy else self._from_parquet(parquet, texts)
            start = shard << _ROW_BITS
            for numbers, vectors, batch in parts:
                yield Block(vectors, numbers + start, batch)

    def rows(self, positions: Sequence[int]) -> list[Row]:
        """Metadata of rows, in the order of the positions; only the row groups that hold them are read.

        Raises:
            InputError: a shard is damaged.
        """
        rows: dict[int, Row] = {}
        for shard in sorted({position >> _ROW_BITS for position in positions}):
            wanted = sorted({p & ((1 << _ROW_BITS) - 1) for p in positions if p >> _ROW_BITS == shard})
            with self._read(self.names[shard]) as parquet:
                told = _described(parquet.metadata.metadata)
                start = 0
                for group in range(parquet.metadata.num_row_groups):
                    end = start + parquet.metadata.row_group(group).num_rows
                    here = [row for row in wanted if start <= row < end]
                    if here:
                        texts = parquet.read_row_group(group, columns=list(TEXTS), **_ONE_THREAD)
                        items = texts.take([row - start for row in here]).to_pylist()
                        for row, item in zip(here, items, strict=True):
                            name = self.names[shard]
                            rows[shard << _ROW_BITS | row] = Row(**item, shard=name, row=row, **told)
                    start = end
        return [rows[position] for position in positions]

    def _from_parquet(self, parquet: Any, texts: bool) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any], Any]]:
        column = "embedding" if len(self.job.towers) == 1 else f"{self.tower}_embedding"
        schema, width, pa = parquet.schema_arrow, self.job.embed_dim, self._pa
        has = schema.field(column).type if column in schema.names else None
        value = pa.float16() if self.job.dtype == "float16" else pa.float32()
        if has is None or not pa.types.is_fixed_size_list(has) or has.list_size != width or has.value_type != value:
            problem = "no column" if has is None else f"{has} in the column"
            raise _Unfit(f"it has {problem} {column!r}, and the job's embeddings are {width} {self.job.dtype} a row")
        has_errors = _has_errors(parquet.metadata.metadata)
        start = 0
        for batch in parquet.iter_batches(BLOCK, columns=[column, *(TEXTS if texts else ())], **_ONE_THREAD):
            lists = batch.column(column)
            values = lists.flatten()
            if lists.null_count or values.null_count:
                raise _Unfit("an embedding, or a number in one, is null")
            vectors = values.to_numpy(zero_copy_only=False).reshape(-1, width)
            rows = None
            if has_errors:  # rows without an embedding are zeros
                rows = np.flatnonzero(vectors.any(axis=1))
                vectors = vectors[rows]
            numbers = np.arange(batch.num_rows) if rows is None else rows
            named = batch.select(list(TEXTS)) if texts else None
            yield numbers + start, vectors, named if rows is None or named is None else named.take(pa.array(rows))
            start += batch.num_rows

    def _from_arrays(
        self, shard: int, parquet: Any, rows: int, texts: bool
    ) -> Iterator[tuple[npt.NDArray[np.int64], npt.NDArray[Any], Any]]:
        kind, width = _ARRAYS[self.tower], self.job.embed_dim
        number = self.names[shard].removeprefix("metadata/metadata_").removesuffix(".parquet")
        name = f"{kind}/{kind}_{number}.npy"
        # Metadata comes in the same steps as vectors, also across row groups.
        batches = iter(parquet.iter_batches(BLOCK, columns=list(TEXTS), **_ONE_THREAD)) if texts else None
        with self._damage(name), self.folder.opened(name) as file:
            shape, dtype = _array_header(file)
            if shape != (rows, width) or dtype != np.dtype(self.job.dtype):
                raise _Unfit(
                    f"it has {shape} {dtype}, and the job and {self.names[shard]} say {(rows, width)} {self.job.dtype}"
                )
            start = 0
            while start < rows:
                batch = next(batches) if batches is not None else None
                count = min(BLOCK, rows - start) if batch is None else batch.num_rows
                # Plain reads, because a file that shrinks would end the process where it is mapped into memory.
                data = file.read(count * width * dtype.itemsize)
                if len(data) != count * width * dtype.itemsize:
                    raise _Unfit("it is cut off")
                yield np.arange(start, start + count), np.frombuffer(data, dtype).reshape(count, width), batch
                start += count

    @contextmanager
    def _read(self, name: str) -> Iterator[Any]:
        with (
            self._damage(name),
            self.folder.opened(name) as file,
            self._parquet.ParquetFile(file, pre_buffer=False) as parquet,
        ):
            yield parquet

    @contextmanager
    def _damage(self, name: str) -> Iterator[None]:
        """A context in which whatever a reader raises becomes an error that names the shard."""
        try:
            yield
        except EngineError:
            raise
        except (OSError, ValueError, KeyError, TypeError, EOFError, SyntaxError, self._pa.ArrowException) as error:
            raise InputError(
                f"{self.folder.path(name)} is damaged or not of this job ({error_line(error)}): remove it with the files of its "
                "number, and run the job again"
            ) from error
        except Exception as error:  # a remote file system has errors of its own
            raise InputError(
                f"{self.folder.path(name)} cannot be read ({error_line(error)}): check the network and the access"
            ) from error


class _Unfit(ValueError):
    """A file is whole and does not fit the job."""


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if by_columns:
        raise _Unfit("its array is in Fortran order")
    return shape, dtype


def _described(metadata: dict[bytes, bytes] | None) -> dict[str, str]:
    """The input and its kind from a shard's footer; nothing where they are missing: they only help to find pictures."""
    try:
        told = json.loads((metadata or {})[RECORD_KEY])
        return {name: str(told[name]) for name in ("input", "kind")}
    except (KeyError, TypeError, ValueError):
        return {}


def _has_errors(metadata: dict[bytes, bytes] | None) -> bool:
    """Whether a shard has rows without an embedding, by its footer; True where the footer does not say."""
    try:
        return bool(json.loads((metadata or {})[RECORD_KEY])["errors"])
    except (KeyError, TypeError, ValueError):
        return True
