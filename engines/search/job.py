"""The description of a job of embeddings, ``.job/job.json``, and the bundle that it names."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from engines.bulk.description import FILE_NAME
from engines.errors import BundleError, InputError
from engines.files.checksums import file_sha256
from engines.manifest import MANIFEST_NAME, TowerName
from engines.search.storage import Folder
from engines.shards.samples import Columns

FORMAT = 1  # the newest format of the folder that this release reads


class _Format(msgspec.Struct):
    format: int


class Job(msgspec.Struct):
    """The description of a job; fields that a search does not need are ignored.

    Attributes:
        format: version of the folder's format.
        bundle: path of the bundle on the machine that ran the job.
        manifest_sha256: sha256 (hex) of the bundle's manifest.
        model: name of the model.
        towers: towers whose embeddings are in the folder.
        layout: kind of the shards.
        dtype: type of the embeddings.
        embed_dim: number of dimensions of an embedding.
        columns: the columns of parquet files that the job's command named.
    """

    format: int
    bundle: str
    manifest_sha256: str
    model: str
    towers: list[TowerName]
    layout: Literal["parquet", "npy"]
    dtype: Literal["float16", "float32"]
    embed_dim: int
    columns: Columns = Columns()


def read_job(folder: Folder) -> Job:
    """Read the description of the job that wrote a folder.

    Raises:
        InputError: there is none, it is damaged, or a newer release wrote it.
    """
    if not folder.exists(FILE_NAME):
        raise InputError(
            f"{folder.place} has no {FILE_NAME}: pass a folder that `python -m engines embed BUNDLE SOURCES --out FOLDER` wrote"
        )
    with folder.opened(FILE_NAME) as file:
        data = file.read()
    try:
        number = msgspec.json.decode(data, type=_Format).format
        if number > FORMAT:
            raise InputError(
                f"{folder.place} has format {number}, this release reads up to {FORMAT}: upgrade openclip-engines"
            )
        job = msgspec.json.decode(data, type=Job)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(
            f"{folder.path(FILE_NAME)} is damaged ({error}): run the job again into a new folder"
        ) from error
    if job.embed_dim < 1 or not job.towers:
        raise InputError(f"{folder.path(FILE_NAME)} names no embeddings: run the job again into a new folder")
    return job


def check_bundle(job: Job, bundle: str | os.PathLike[str], is_given: bool) -> Path:
    """The folder of the bundle that made the embeddings; queries of another one would be compared with the wrong vectors.

    Args:
        job: description of the job.
        bundle: the folder to check.
        is_given: whether the caller named that folder; otherwise it is the job's own.

    Raises:
        BundleError: there is no bundle, or one with another manifest.
    """
    manifest = Path(bundle) / MANIFEST_NAME
    remedy = (
        "pass the bundle that embedded this folder"
        if is_given
        else "pass the same bundle at its present place by --bundle"
    )
    try:
        digest = file_sha256(manifest)
    except OSError as error:
        raise BundleError(f"cannot read {manifest} ({error.strerror or error}): {remedy}") from error
    if digest != job.manifest_sha256:
        raise BundleError(
            f"{bundle} is not the bundle that made these embeddings of {job.model}: its manifest has sha256 {digest[:12]}… and the "
            f"job's has {job.manifest_sha256[:12]}…; {remedy}"
        )
    return Path(bundle)
