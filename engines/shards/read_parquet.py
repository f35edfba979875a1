"""The samples of a parquet file with pictures as bytes or paths, captions, or both."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from typing import Any

from engines.errors import InputError
from engines.files.parquet_library import import_parquet
from engines.files.storage import is_remote, open_input, reading
from engines.process.optional import error_line
from engines.shards.local_paths import local_path
from engines.shards.samples import MOST_BYTES, Columns, ReaderNotes, Sample

_ROWS = 64  # rows of a batch: their pictures are in memory together
_BUFFER_BYTES = 1 << 20
_USUAL = {
    "image": (
        "image",
        "jpg",
        "jpeg",
        "png",
        "webp",
        "image_bytes",
        "img",
        "bytes",
        "image_path",
        "path",
        "file_name",
        "filename",
    ),
    "caption": ("caption", "text", "TEXT", "txt", "alt", "title"),
    "url": ("url", "URL", "image_url"),
    "key": ("key", "__key__", "id", "uid", "sample_id", "SAMPLE_ID", "image_id"),
}


class MissingColumnError(InputError):
    """A parquet file has no column that a tower of the job needs, or none of a name that the user gave."""


def check_columns(source: str, columns: Columns, towers: tuple[str, ...]) -> None:
    """Check that a parquet file has the columns of a job; see `read_parquet`.

    Raises:
        MissingColumnError: it has not.
        InputError: it cannot be read.
    """
    _, parquet = import_parquet(f"reading {source}")
    with open_input(source) as opened, reading(source):
        try:
            names = parquet.ParquetFile(opened, pre_buffer=False).schema_arrow.names
        except Exception as error:
            raise InputError(f"{source} is no parquet file or is damaged ({error_line(error)})") from error
        _chosen(source, names, columns, towers)


def read_parquet(source: str, notes: ReaderNotes, columns: Columns, towers: tuple[str, ...]) -> Iterator[Sample]:
    """The samples of a parquet file, batch by batch.

    Args:
        source: path or URL.
        notes: receives the number of duplicate keys.
        columns: names of the columns.
        towers: the towers of the job; its columns must be there, the other columns may be missing.

    Raises:
        InputError: the file cannot be read, or has no column that a tower needs; the message lists the columns that it has.
    """
    pa, parquet = import_parquet(f"reading {source}")
    with open_input(source) as opened, reading(source):
        try:
            # Pages are read one after the other; a whole row group of pictures may not fit into memory.
            file = parquet.ParquetFile(opened, pre_buffer=False, buffer_size=_BUFFER_BYTES)
        except InputError:  # the network failed
            raise
        except Exception as error:
            raise InputError(
                f"{source} is no parquet file or is damaged ({error_line(error)}): fetch it again"
            ) from error
        names = _chosen(source, file.schema_arrow.names, columns, towers)
        folder = None if is_remote(source) else os.path.dirname(source)
        row = 0
        try:
            for batch in file.iter_batches(_ROWS, columns=list(dict.fromkeys(names.values())), use_threads=False):
                table = {name: _values(pa, batch.column(column)) for name, column in names.items()}
                for i in range(batch.num_rows):
                    sample = _sample({name: values[i] for name, values in table.items()}, row, folder)
                    notes.count_key(sample.key)
                    yield sample
                    row += 1
        except InputError as error:
            raise InputError(str(error) if source in str(error) else f"{source}: {error}") from error
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"{source} is damaged after row {row:,} ({error_line(error)}): fetch it again") from error


def _chosen(source: str, have: list[str], columns: Columns, towers: tuple[str, ...]) -> dict[str, str]:
    """The columns to read by their use."""
    chosen: dict[str, str] = {}
    for use, usual in _USUAL.items():
        named = getattr(columns, use)
        if named is not None and named not in have:
            raise MissingColumnError(
                f"{source} has no column {named!r}, only {', '.join(have)}: pass another --{use}-column"
            )
        found = named or next((name for name in usual if name in have), None)
        if found is not None:
            chosen[use] = found
    for tower, use in (("image", "image"), ("text", "caption")):
        if tower in towers and use not in chosen:
            raise MissingColumnError(
                f"{source} has no column of {use}s that is known by its name, only {', '.join(have)}: pass --{use}-column"
            )
    if "image" not in towers:
        chosen.pop("image", None)
    twice = next((name for name in chosen.values() if have.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{source} has two columns {twice!r}: write it again with different names")
    return chosen


def _sample(values: dict[str, Any], row: int, folder: str | None) -> Sample:
    """A row's sample; `folder` is that of the parquet file, None where it is remote."""
    key, url, caption = (_text(values.get(name)) for name in ("key", "url", "caption"))
    sample = Sample(f"{row:08d}" if key is None else key, url, caption)
    image = values.get("image")
    if isinstance(image, dict):
        if not image.keys() & {"bytes", "path"}:
            raise InputError(
                f"a picture has the fields {', '.join(image)}, and neither bytes nor path: pass another --image-column"
            )
        image = image.get("bytes") or image.get("path")
    if isinstance(image, str):
        path, sample.problem = local_path(image)
        if path is not None and not os.path.isabs(path):
            path = None if folder is None else os.path.join(folder, path)
            if path is None:
                sample.problem = f"{image} is relative to a file that is not on this machine: make tars of the pictures"
        sample.image, sample.url = path, sample.url or path or image
    elif isinstance(image, bytes):
        if len(image) > MOST_BYTES:
            sample.problem = f"the picture has {len(image):,} bytes, more than {MOST_BYTES:,}: scale it down first"
        else:
            sample.image = image
    elif _text(image) is not None:  # NaN is no picture
        raise InputError(f"the column of pictures holds {type(image).__name__} values: pass one with bytes or paths")
    return sample


def _text(value: Any) -> str | None:
    """A value as text; None for none, which pandas writes as NaN in some columns."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _values(pa: Any, column: Any) -> list[Any]:
    try:
        values: list[Any] = column.to_pylist()
    except UnicodeDecodeError:  # some programs write texts that are no UTF-8; the other rows are whole
        values = [_text(value) for value in column.cast(pa.large_binary()).to_pylist()]
    return values
