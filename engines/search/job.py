"""The description of a job of embeddings, ``.job/job.json``, and the bundle that it names."""

from __future__ import annotations

import os
from pathlib import Path

from engines.bulk.description import FILE_NAME, JobDescription, decode_description
from engines.errors import BundleError, InputError
from engines.files.checksums import file_sha256
from engines.manifest import MANIFEST_NAME
from engines.search.storage import Folder


def read_job(folder: Folder) -> JobDescription:
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
    return decode_description(data, folder.path(FILE_NAME))


def check_bundle(job: JobDescription, bundle: str | os.PathLike[str], is_given: bool) -> Path:
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
