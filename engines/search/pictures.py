"""Small pictures of hits, read from where the job's input is; an http address is never fetched."""

from __future__ import annotations

import base64
import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import ImageOps

from engines.errors import ImageError, InputError
from engines.inputs.image_formats import is_image_name
from engines.inputs.image_inputs import opened_image
from engines.process.optional import error_line, import_or_reason
from engines.search.shards import Row

SIDE = 224  # longest side of a small picture, in pixels
_QUALITY = 80
_IMAGE_NAMES = ("image", "jpg", "jpeg", "png", "webp", "bytes", "img")  # columns of pictures, the usual ones first


def small_pictures(rows: Iterable[Row]) -> dict[Row, str]:
    """A small JPEG of each row's picture, as a data URI; or the reason why there is none, which does not begin with ``data:``.

    Where the pictures are: of a job on folders or lists, the file that url or key names; of a tar file, the first image member with
    the row's key; of a parquet file, its column of bytes. The url of a row of a tar or parquet file is never opened, neither as an
    address nor as a path: it is somebody else's text, and the page may be passed on.

    Args:
        rows: metadata of hits.
    """
    found: dict[Row, str] = {}
    by_input: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_input.setdefault((row.kind, row.input), []).append(row)
    for (kind, place), group in by_input.items():
        for row, picture in _read(kind, place, group).items():
            found[row] = picture if isinstance(picture, str) else _data_uri(picture)
    return found


def _read(kind: str, place: str, rows: list[Row]) -> dict[Row, str | bytes | Path]:
    """Encoded pictures or their files, or the reasons why there are none."""
    if kind == "files":
        return {row: _file_of(row) for row in rows}
    if kind == "lines":
        return dict.fromkeys(rows, "a line of text")
    if kind not in ("tar", "parquet"):
        return dict.fromkeys(rows, "the shard does not say where its pictures are")
    if not Path(place).is_file():
        return dict.fromkeys(rows, f"{place} is not on this machine")
    try:
        members = _from_tar(place, {row.key for row in rows}) if kind == "tar" else _from_parquet(place, rows)
    except Exception as error:  # noqa: BLE001 - an archive that was changed since; readers of tar and parquet raise many classes
        return dict.fromkeys(rows, f"{place} cannot be read: {error_line(error)}")
    return {row: members.get(row.key, f"{place} has no picture of this key") for row in rows}


def _file_of(row: Row) -> str | Path:
    for name in (row.url, row.key):
        if name and os.path.isfile(name):
            return Path(name)
    return f"{row.url or row.key} is not on this machine"


def _from_tar(place: str, keys: set[str]) -> dict[str, bytes]:
    """The first image member of each key: webdataset's key is the path up to the first dot of the base name."""
    found: dict[str, bytes] = {}
    with tarfile.open(place) as tar:
        for member in tar:
            folder, _, base = member.name.rpartition("/")
            stem = base.split(".", 1)[0]
            key = f"{folder}/{stem}" if folder else stem
            if key in keys and key not in found and member.isfile() and is_image_name(member.name):
                file = tar.extractfile(member)
                assert file is not None
                found[key] = file.read()
                if len(found) == len(keys):
                    break
    return found


def _from_parquet(place: str, rows: list[Row]) -> dict[str, bytes]:
    """Bytes of the rows of a parquet file, by the column ``key``, or by the number that stands for it."""
    parquet = import_or_reason("pyarrow.parquet", "pyarrow", "pip install 'openclip-engines[parquet]'")
    if isinstance(parquet, str):
        raise InputError(parquet)
    keys, found = {row.key for row in rows}, dict[str, bytes]()
    with parquet.ParquetFile(place) as file:
        column = _image_column(file.schema_arrow)
        names = [name for name in ("key", column) if name in file.schema_arrow.names]
        start = 0
        for batch in file.iter_batches(64, columns=names, use_threads=False):
            own = batch.column("key").to_pylist() if "key" in names else range(start, start + batch.num_rows)
            start += batch.num_rows
            for number, key in enumerate(own):
                name = f"{key:08d}" if isinstance(key, int) else key
                if name in keys and name not in found:
                    value = batch.column(column)[number].as_py()
                    data = value.get("bytes") if isinstance(value, dict) else value
                    if data:
                        found[name] = data
    return found


def _image_column(schema: Any) -> str:
    """The column of encoded pictures: of bytes, or of a structure with ``bytes``, as the datasets library writes it."""
    has = [field.name for field in schema if _holds_bytes(field.type)]
    if not has:
        raise InputError("it has no column of bytes")
    return min(has, key=lambda name: _IMAGE_NAMES.index(name) if name in _IMAGE_NAMES else len(_IMAGE_NAMES))


def _holds_bytes(kind: Any) -> bool:
    if str(kind) in ("binary", "large_binary", "binary_view"):
        return True
    return str(kind).startswith("struct<") and kind.get_field_index("bytes") >= 0


def _data_uri(picture: bytes | Path) -> str:
    try:
        with opened_image(picture if isinstance(picture, bytes) else str(picture)) as (image, _):
            image.draft("RGB", (2 * SIDE, 2 * SIDE))
            small = ImageOps.exif_transpose(image).convert("RGB")
            small.thumbnail((SIDE, SIDE))
            file = io.BytesIO()
            small.save(file, "JPEG", quality=_QUALITY)
    except ImageError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - on damaged data Pillow's plugins raise anything
        return f"the picture cannot be decoded: {error_line(error)}"
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
