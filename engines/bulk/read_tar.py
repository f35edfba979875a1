"""The samples of a tar in webdataset's convention: consecutive files with the same name up to the first dot are one sample."""

from __future__ import annotations

import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any

from engines.bulk.samples import MOST_BYTES, ReaderNotes, Sample, clean_text
from engines.errors import InputError
from engines.files.storage import open_input, reading
from engines.inputs.image_formats import is_image_name

_CUT = (tarfile.ReadError, EOFError, zlib.error, lzma.LZMAError)
# The class of the "error" at the zero blocks with which every whole tar ends.
_END_MARKER: type[Exception] = vars(tarfile)["EOFHeaderError"]
_MOST_TEXT = 1 << 20


class _Member(tarfile.TarInfo):
    """A member's header. Tarfile ends silently at a damaged header and at the file's end; here the archive remembers why."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            archive.ending = error  # type: ignore[attr-defined]
            raise


def read_tar(source: str, notes: ReaderNotes) -> Iterator[Sample]:
    """The samples of a tar, plain or compressed, read once from its start to its end.

    A sample's picture is its first file with the suffix of a picture, its caption the file ``.txt``, or ``caption`` in the file
    ``.json``, which also may have its ``url``. Where the tar is cut off, the sample that is cut has a problem, and `notes` says so.

    Raises:
        InputError: the file is not there, or is no tar.
    """
    with open_input(source) as file, reading(source):
        archive = _open(file, source)
        with archive:
            yield from _samples(archive, source, notes)


def _open(file: IO[bytes], source: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r|*", bufsize=1 << 20, tarinfo=_Member)
    except _CUT as error:
        raise InputError(f"{source} is no tar ({error}): fetch it again") from error


def _samples(archive: tarfile.TarFile, source: str, notes: ReaderNotes) -> Iterator[Sample]:
    sample: Sample | None = None
    suffixes: set[str] = set()
    members: list[tarfile.TarInfo] = vars(archive)["members"]
    try:
        while (member := archive.next()) is not None:
            members.clear()  # tarfile keeps all of them otherwise
            if not member.isfile():
                continue
            key, suffix = _split(member.name)
            if not key or not suffix:
                continue
            if sample is None or key != sample.key or suffix in suffixes:
                if sample is not None:
                    yield _finished(sample, notes)
                sample, suffixes = Sample(key), set()
            suffixes.add(suffix)
            _add(sample, suffix, member, archive)
    except _CUT as error:
        notes.cut = f"{source} is cut off or damaged ({error}): fetch it again"
    else:
        ending = getattr(archive, "ending", None)
        if not isinstance(ending, _END_MARKER):
            notes.cut = f"{source} is cut off or damaged ({ending or 'no end marker'}): fetch it again"
    if sample is not None:
        if notes.cut is not None:
            sample.problem = notes.cut
        yield _finished(sample, notes)


def _finished(sample: Sample, notes: ReaderNotes) -> Sample:
    notes.count_key(sample.key)
    return sample


def _split(name: str) -> tuple[str, str]:
    """A member's key, its path up to the first dot of its base name, and the rest in lower case, such as ``jpg``."""
    name = name.removeprefix("./")
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    # Half of a surrogate pair stands for a byte that is no UTF-8; columns of parquet files cannot hold it.
    key = f"{folder}{slash}{stem}".encode("utf-8", "backslashreplace").decode() if stem else ""
    return key, suffix.lower()


def _add(sample: Sample, suffix: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    if is_image_name(f"x.{suffix}"):
        if sample.image is not None:
            return
        if member.size > MOST_BYTES:
            sample.problem = (
                f"{member.name} has {member.size:,} bytes, more than {MOST_BYTES:,}: scale the picture down first"
            )
            return
        sample.image = _content(archive, member)
    elif suffix in ("txt", "json") and member.size <= _MOST_TEXT:
        text = _content(archive, member).decode("utf-8", "replace")
        if suffix == "txt":
            sample.caption = text.strip("\r\n")
        else:
            _add_json(sample, text)


def _add_json(sample: Sample, text: str) -> None:
    try:
        data: Any = json.loads(text)
    except ValueError:
        return
    if not isinstance(data, dict):
        return
    if isinstance(data.get("url"), str):
        sample.url = clean_text(data["url"])
    if sample.caption is None and isinstance(data.get("caption"), str):
        sample.caption = clean_text(data["caption"])


def _content(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    data = b"" if file is None else file.read()
    if len(data) != member.size:
        raise tarfile.ReadError(f"{member.name} has {len(data):,} of {member.size:,} bytes")
    return data
