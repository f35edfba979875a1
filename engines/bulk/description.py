"""The description of a job, ``.job/job.json`` in its output folder: jobs with another one may not write into the folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from engines.bulk.layouts import DType, Layout, LayoutName, NotOfAJob
from engines.bulk.npy_layout import ARRAY_FOLDERS, NpyLayout
from engines.bulk.parquet_layout import ParquetLayout, check_is_of_a_job
from engines.errors import EngineError, InputError
from engines.files.output_folder import Folder
from engines.manifest import TowerName
from engines.shards.samples import Columns

FILE_NAME = ".job/job.json"
_FORMAT = 1
# Fields that may differ between two jobs on one folder: a bundle may be copied elsewhere, and a gate's figures depend on pictures.
_FREE = frozenset({"bundle", "fast_decode_cosine"})


@dataclass(frozen=True)
class JobDescription:
    """What all shards of an output folder have in common.

    Attributes:
        bundle: path of the bundle on the machine that began the job.
        manifest_sha256: checksum of the bundle's manifest, and with it of all its files.
        model: the model's name.
        towers: the embeddings of each row.
        layout: how the files are laid out.
        dtype: type of the embeddings on disk.
        embed_dim: D.
        max_pixels: limit of an image's width x height; None is the default.
        columns: names of the columns of parquet files, as far as they were given.
        fast_decode: whether JPEG files were decoded at a reduced scale.
        fast_decode_cosine: the smallest cosine between embeddings with and without it, on the first pictures of the job that began.
    """

    bundle: str
    manifest_sha256: str
    model: str
    towers: tuple[TowerName, ...]
    layout: LayoutName
    dtype: DType
    embed_dim: int
    max_pixels: int | None = None
    columns: Columns = field(default_factory=Columns)
    fast_decode: bool = False
    fast_decode_cosine: float | None = None
    format: int = _FORMAT

    def digest(self) -> str:
        """A hash of the fields that determine the rows."""
        fields = {name: value for name, value in asdict(self).items() if name not in _FREE}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()

    def make_layout(self) -> Layout:
        """The layout that writes and reads the shards.

        Raises:
            InputError: pyarrow is missing.
        """
        make = ParquetLayout if self.layout == "parquet" else NpyLayout
        return make(self.towers, self.dtype, self.embed_dim)


class _Format(msgspec.Struct):
    format: int


def decode_description(data: bytes, place: str) -> JobDescription:
    """The description in the content of a ``job.json``; fields that this release does not know are ignored.

    Args:
        data: the content.
        place: path or URL of the file, for messages.

    Raises:
        InputError: it is damaged, or a newer release wrote it.
    """
    try:
        number = msgspec.json.decode(data, type=_Format).format
        if number > _FORMAT:
            raise InputError(
                f"{place} has format {number}, and this release reads format {_FORMAT}: use the release that wrote it"
            )
        description = msgspec.json.decode(data, type=JobDescription)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{place} is damaged ({error}): run the job again into a new folder") from error
    if description.embed_dim < 1 or not description.towers:
        raise InputError(f"{place} names no embeddings: run the job again into a new folder")
    return description


def read_description(folder: Folder) -> JobDescription | None:
    """The description in an output folder; None where there is none.

    Raises:
        InputError: see `decode_description`.
    """
    data = folder.read(FILE_NAME)
    return None if data is None else decode_description(data, f"{folder.url}/{FILE_NAME}")


def check_agrees(folder: Folder, wanted: JobDescription) -> JobDescription:
    """Compare a job's description with the one in its folder; nothing is written.

    Returns:
        The description in the folder; `wanted` where there is none.

    Raises:
        InputError: the folder belongs to a job that would make other rows, or has files that no job wrote; or see
            `decode_description`.
    """
    there = read_description(folder)
    if there is None:
        _refuse_foreign_files(folder)
        return wanted
    if there.digest() != wanted.digest():
        raise InputError(
            f"{folder.url} holds embeddings of another job ({_difference(there, wanted)}): pass another --out"
        )
    return there


def agree(folder: Folder, wanted: JobDescription) -> JobDescription:
    """Write a job's description into its folder, or compare it with the one that is there.

    Returns:
        The description in the folder.

    Raises:
        InputError: see `check_agrees`.
        EngineError: it cannot be written.
    """
    data = json.dumps(asdict(wanted), indent=1).encode()
    for _ in range(3):
        there = check_agrees(folder, wanted)
        if there is not wanted or folder.create(FILE_NAME, data):
            return there
    raise EngineError(f"{folder.url}/{FILE_NAME} cannot be written: other jobs write and remove it")


def _refuse_foreign_files(folder: Folder) -> None:
    """Refuse a folder that no job has begun and that has files which no job wrote, because a job might replace them.

    Raises:
        InputError: there is a parquet file without a job's record, or an array of clip-retrieval's layout without its metadata.
    """
    names = folder.names()
    for name in sorted(names):
        place, _, array = name.partition("/")
        if name.endswith(".parquet"):
            with folder.open(name) as file:
                try:
                    check_is_of_a_job(file)
                except (NotOfAJob, InputError) as error:
                    raise InputError(
                        f"{folder.url} has {name}, which no job wrote ({error}): pass an empty folder as --out"
                    ) from error
        elif place in ARRAY_FOLDERS and array.startswith(f"{place}_") and array.endswith(".npy"):
            shard = array[len(place) + 1 : -len(".npy")]
            if f"metadata/metadata_{shard}.parquet" not in names:
                raise InputError(
                    f"{folder.url} has {name}, which no job wrote (it has no metadata): pass an empty folder as --out"
                )


def _difference(there: JobDescription, wanted: JobDescription) -> str:
    before, now = asdict(there), asdict(wanted)
    names = [name for name in before if name not in _FREE and before[name] != now[name]]
    if names == ["manifest_sha256"]:
        return f"of another export of {there.model}"
    return ", ".join(
        f"{name} {_text(before, name)} there, {_text(now, name)} here" for name in names if name != "manifest_sha256"
    )


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields[name]
    if isinstance(value, dict):
        return (
            " ".join(f"{use}={column}" for use, column in value.items() if column is not None) or "by their usual names"
        )
    return "+".join(value) if isinstance(value, tuple) else str(value)
