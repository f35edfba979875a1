"""Small pictures of hits, read from where the job's input is; an http address is never fetched."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from PIL import ImageOps

from engines.errors import EngineError, ImageError
from engines.inputs.image_inputs import opened_image
from engines.process.optional import error_line
from engines.search.shards import Row
from engines.shards.read_parquet import read_parquet
from engines.shards.read_tar import read_tar
from engines.shards.samples import Columns, ReaderNotes, Sample

SIDE = 224  # longest side of a small picture, in pixels
_QUALITY = 80
_ESCAPED_BYTE = re.compile(r"\\u(dc[89a-f][0-9a-f])")


def small_pictures(rows: Iterable[Row], columns: Columns | None = None) -> dict[Row, str]:
    """A small JPEG of each row's picture, as a data URI; or the reason why there is none, which does not begin with ``data:``.

    Where the pictures are: of a job on folders or lists, the file that url or key names; of a tar or parquet file, the first sample
    with the row's key, as the job reads them. Neither the url of such a row is opened, nor a path that a parquet file holds: they
    are somebody else's text, and the page may be passed on.

    Args:
        rows: metadata of hits.
        columns: the columns of parquet files that the job's command named; None where it named none.
    """
    found: dict[Row, str] = {}
    by_input: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        by_input.setdefault((row.kind, row.input), []).append(row)
    for (kind, place), group in by_input.items():
        for row, picture in _read(kind, place, group, columns or Columns()).items():
            found[row] = picture if isinstance(picture, str) else _data_uri(picture)
    return found


def _read(kind: str, place: str, rows: list[Row], columns: Columns) -> Mapping[Row, str | bytes | Path]:
    """Encoded pictures or their files, or the reasons why there are none."""
    if kind == "files":
        return {row: _file_of(row) for row in rows}
    if kind == "lines":
        return dict.fromkeys(rows, "a line of text")
    if kind not in ("tar", "parquet"):
        return dict.fromkeys(rows, "the shard does not say where its pictures are")
    if not Path(place).is_file():
        return dict.fromkeys(rows, f"{place} is not on this machine")
    notes = ReaderNotes()
    samples = read_tar(place, notes) if kind == "tar" else read_parquet(place, notes, columns, ("image",))
    keys = {row.key for row in rows}
    found: dict[str, str | bytes] = {}
    missing = f"{place} has no picture of this key"
    try:
        for sample in samples:
            if sample.key in keys and sample.key not in found:
                found[sample.key] = _picture_of(sample, missing)
                if len(found) == len(keys):
                    break
    except EngineError as error:  # it names the file
        missing = str(error)
    except Exception as error:  # noqa: BLE001 - a file that was changed since; readers of tar and parquet raise many classes
        missing = f"{place} cannot be read: {error_line(error)}"
    return {row: found.get(row.key, missing) for row in rows}


def _picture_of(sample: Sample, missing: str) -> str | bytes:
    if sample.problem is not None:
        return sample.problem
    if isinstance(sample.image, str):
        return f"the picture is the file {sample.image}, and paths in a parquet file are not opened for a page"
    return sample.image or missing


def _file_of(row: Row) -> str | Path:
    for name in (row.url, row.key):
        # Bytes of a file name that are no UTF-8 are written as escapes.
        for file in (name, _ESCAPED_BYTE.sub(lambda match: chr(int(match[1], 16)), name)) if name else ():
            if os.path.isfile(file):
                return Path(file)
    return f"{row.url or row.key} is not on this machine"


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
