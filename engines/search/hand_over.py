"""Embeddings for libraries that are made for search at scale: faiss and LanceDB."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import EngineError, InputError
from engines.files.parquet_library import import_parquet
from engines.process.optional import error_line, import_or_reason
from engines.search.shards import TEXTS, Block, Shards

TABLE = "embeddings"  # name of LanceDB's table


@dataclass(frozen=True)
class HandedOver:
    """What was written.

    Attributes:
        library: ``faiss`` or ``lancedb``.
        rows: number of embeddings.
        files: paths.
        what: kind of the index or table.
    """

    library: str
    rows: int
    files: list[str]
    what: str


def hand_over(shards: Shards, library: str, place: str) -> HandedOver:
    """Write all embeddings of a folder for another library.

    Args:
        shards: the opened folder.
        library: ``faiss`` or ``lancedb``.
        place: the index's file, or the database's folder or URL; neither an index nor a table may be there yet.

    Raises:
        InputError: there is no such library, it is not installed, the place is taken or cannot be written, or a shard is damaged.
    """
    if library not in LIBRARIES:
        raise InputError(f"there is no --to {library}: pass {' or '.join(LIBRARIES)}")
    return LIBRARIES[library](shards, place)


def _to_faiss(shards: Shards, place: str) -> HandedOver:
    """An exact index of inner products in memory, then in a file; beside it a parquet file, whose row i belongs to faiss' id i."""
    faiss, (pa, parquet) = _library("faiss"), import_parquet("writing for another library")
    path = Path(place)
    ids = path.with_name(path.name + ".ids.parquet")
    for file in (path, ids):
        if file.exists():
            raise InputError(f"{file} is there already: remove it, or pass another file after --to faiss")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}; make it, or pass another file")
    width = shards.job.embed_dim
    # Embeddings of float16 are kept as such, in half the memory: they are the same numbers.
    half = shards.job.dtype == "float16"
    kind = faiss.ScalarQuantizer.QT_fp16
    index = faiss.IndexScalarQuantizer(width, kind, faiss.METRIC_INNER_PRODUCT) if half else faiss.IndexFlatIP(width)
    made, listing = path.with_name(path.name + ".tmp"), ids.with_name(ids.name + ".tmp")
    try:
        with parquet.ParquetWriter(listing, pa.schema([pa.field(name, pa.string()) for name in TEXTS])) as writer:
            for block in _blocks(shards):
                index.add(block.vectors.astype("float32", copy=False))
                writer.write_batch(pa.RecordBatch.from_arrays(block.texts.columns, schema=writer.schema))
        _write_index(faiss, index, made)
        listing.replace(ids)
        made.replace(path)
    except OSError as error:  # pyarrow's text has the name of the temporary file, too
        reason = os.strerror(error.errno) if error.errno else error_line(error)
        raise InputError(f"cannot write {path} ({reason}): free space, or pass another file") from error
    except (RuntimeError, MemoryError) as error:  # faiss raises RuntimeError
        raise InputError(
            f"cannot write {path} ({error_line(error)}): free space or memory, or pass another file"
        ) from error
    finally:
        for file in (made, listing):
            with suppress(OSError):  # in a folder that is only read nothing was written
                file.unlink(missing_ok=True)
    what = "IndexScalarQuantizer, QT_fp16" if half else "IndexFlatIP"
    return HandedOver(
        "faiss", int(index.ntotal), [str(path), str(ids)], f"faiss {what}, inner product; row i of the second is id i"
    )


def _write_index(faiss: Any, index: Any, path: Path) -> None:
    """Write an index through Python's file, because faiss does not notice a disk that is full when it closes its own."""
    failed: list[OSError] = []
    with path.open("wb") as file:

        def write(data: bytes) -> None:
            try:
                file.write(data)
            except OSError as error:
                failed.append(error)
                raise

        try:
            faiss.write_index(index, faiss.PyCallbackIOWriter(write))
        except RuntimeError as error:
            if failed:
                raise failed[0] from error
            raise


def _to_lancedb(shards: Shards, place: str) -> HandedOver:
    """A table with the columns key, url, caption and vector; rows are streamed into it."""
    lancedb, (pa, _) = _library("lancedb"), import_parquet("writing for another library")
    width = shards.job.embed_dim
    value = pa.float16() if shards.job.dtype == "float16" else pa.float32()
    schema = pa.schema([*(pa.field(name, pa.string()) for name in TEXTS), pa.field("vector", pa.list_(value, width))])
    failed: list[EngineError] = []

    def batches() -> Iterator[Any]:
        try:
            for block in _blocks(shards):
                vectors = pa.FixedSizeListArray.from_arrays(pa.array(block.vectors.reshape(-1)), width)
                yield pa.RecordBatch.from_arrays([*block.texts.columns, vectors], schema=schema)
        except EngineError as error:  # on its way through Arrow's C stream it would become another error
            failed.append(error)
            raise

    try:
        database = lancedb.connect(place)
        table = database.create_table(TABLE, pa.RecordBatchReader.from_batches(schema, batches()))
        rows = int(table.count_rows())
    except Exception as error:  # the library's errors come from Rust and have several classes
        if failed:
            raise failed[0] from error
        raise InputError(
            f"cannot write LanceDB's table {TABLE!r} in {place} ({error_line(error)}): pass another folder"
        ) from error
    return HandedOver("lancedb", rows, [place], f"LanceDB table {TABLE!r}: key, url, caption, vector")


def _blocks(shards: Shards) -> Iterator[Block]:
    for shard in range(len(shards.names)):
        for block in shards.blocks(shard, texts=True):
            if len(block.vectors):
                yield block


def _library(name: str) -> Any:
    library = import_or_reason(name, name, f"pip install 'openclip-engines[{name}]'")
    if isinstance(library, str):
        raise InputError(f"writing for another library needs {name}: {library}")
    return library


LIBRARIES: dict[str, Callable[[Shards, str], HandedOver]] = {"faiss": _to_faiss, "lancedb": _to_lancedb}
