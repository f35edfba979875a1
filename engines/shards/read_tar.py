"""The samples of a tar in webdataset's convention: consecutive files with the same name up to the first dot are one sample."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, Any, cast

from engines.errors import InputError
from engines.files.storage import open_input, reading
from engines.inputs.image_formats import is_image_name
from engines.shards.samples import MOST_BYTES, ReaderNotes, Sample, clean_text

# All that the standard library raises at damaged tars and compressed streams, but for errors of the system.
_CUT = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, ValueError, OverflowError, RecursionError)
# The class of the "error" at the zero blocks with which every whole tar ends.
_END_MARKER: type[Exception] = vars(tarfile)["EOFHeaderError"]
_MOST_TEXT = 1 << 20
_BLOCK = 1 << 20
_EXTRA_HEADERS = (
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)


class _Member(tarfile.TarInfo):
    """A member's header. Tarfile ends silently at a damaged header and at the file's end; here the archive remembers why."""

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Member:
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            archive.ending = error  # type: ignore[attr-defined]
            raise

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        """Tarfile's place for subclasses; it reads a header's long name into memory, of any size that a damaged header claims."""
        if self.type in _EXTRA_HEADERS and self.size > _MOST_TEXT:
            raise tarfile.InvalidHeaderError(f"a name of {self.size:,} bytes")  # type: ignore[attr-defined]
        return cast(tarfile.TarInfo, super()._proc_member(archive))  # type: ignore[misc]


def read_tar(source: str, notes: ReaderNotes) -> Iterator[Sample]:
    """The samples of a tar, plain or compressed, read once from its start to its end.

    A sample's picture is its file with the suffix of a picture. Of several, one whose extension is that suffix alone (``a.jpg``,
    which readers that ask webdataset for ``jpg`` take) goes before those with more (``a.0.jpg``, ``a.thumb.jpg``), and among equal
    ones the first in the tar; `notes` counts the others. Its caption is the file ``.txt``, or ``caption`` in the file ``.json``,
    which also may have its ``url``. Where the tar is cut off, the sample that is cut has a problem, and `notes` says so.

    Raises:
        InputError: the file is not there, or is no tar.
    """
    with open_input(source) as file, reading(source), closing(_decompressed(file)) as stream:
        archive = _open(stream, source)
        with archive:
            yield from _samples(archive, source, notes)


def _decompressed(file: IO[bytes]) -> IO[bytes]:
    """The stream of a tar. Tarfile's own decompression reads the first of several joined streams only, and checks no sums."""
    if not file.seekable():
        return file
    head = file.read(6)
    file.seek(0)
    if head.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(file))
    if head.startswith(b"BZh"):
        return bz2.open(file)
    return lzma.open(file) if head == b"\xfd7zXZ\0" else file


def _open(file: IO[bytes], source: str) -> tarfile.TarFile:
    try:
        return tarfile.open(fileobj=file, mode="r|*", bufsize=_BLOCK, tarinfo=_Member)
    except (*_CUT, OSError) as error:
        if _is_failure(error):
            raise
        raise InputError(f"{source} is no tar ({error}): fetch it again") from error


def _samples(archive: tarfile.TarFile, source: str, notes: ReaderNotes) -> Iterator[Sample]:
    found: _Found | None = None
    members: list[tarfile.TarInfo] = vars(archive)["members"]
    try:
        while (member := archive.next()) is not None:
            members.clear()  # tarfile keeps all of them otherwise
            key, suffix = _split(member.name)
            if key and suffix and (member.isfile() or member.issym() or member.islnk()):
                if found is None or key != found.sample.key or suffix in found.suffixes:
                    if found is not None:
                        yield _finished(found, notes)
                    found = _Found(Sample(key))
                found.suffixes.add(suffix)
                _add(found, suffix, member, archive)
            _skip(archive)
        _check_end(archive)
    except (*_CUT, OSError) as error:
        if _is_failure(error):
            raise
        notes.cut = f"{source} is cut off or damaged ({_visible(str(error))}): fetch it again"
    if found is not None:
        if notes.cut is not None:
            found.sample.problem = notes.cut
        yield _finished(found, notes)


def _is_failure(error: Exception) -> bool:
    """Whether a disk or a network failed. Then the shard fails and is made later, while a cut one is published."""
    return isinstance(error, InputError) or getattr(error, "errno", None) is not None


def _skip(archive: tarfile.TarFile) -> None:
    """Read on to the next header. Tarfile also does, but goes on for ever where a damaged header claims a size of exabytes."""
    stream = cast(IO[bytes], archive.fileobj)
    end: int = vars(archive)["offset"]
    while (left := end - stream.tell()) > 0:
        if not stream.read(min(left, _BLOCK)):
            raise tarfile.ReadError("unexpected end of data")


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise an error unless the tar ended with its end marker and only zeros follow it.

    Where a part of a file was never written, there are zeros, and tarfile takes them for the end marker.
    """
    ending = getattr(archive, "ending", None)
    if not isinstance(ending, _END_MARKER):
        raise tarfile.ReadError(str(ending or "no end marker"))
    stream = cast(IO[bytes], archive.fileobj)
    while block := stream.read(_BLOCK):
        if block.count(0) != len(block):
            raise tarfile.ReadError("zeros in its middle, or several tars in one file; what follows them is not read")


@dataclass
class _Found:
    """A sample of which files were found, until the first one that is not its own.

    Attributes:
        sample: the sample.
        suffixes: extensions of its files.
        pictures: number of its pictures.
        plain: whether the extension of the picture that was taken is a suffix alone.
    """

    sample: Sample
    suffixes: set[str] = field(default_factory=set)
    pictures: int = 0
    plain: bool = False


def _finished(found: _Found, notes: ReaderNotes) -> Sample:
    notes.count_key(found.sample.key)
    notes.further_pictures += max(found.pictures - 1, 0)
    return found.sample


def _split(name: str) -> tuple[str, str]:
    """A member's key, its path up to the first dot of its base name, and the rest in lower case, such as ``jpg``."""
    name = name.removeprefix("./")
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    # Half of a surrogate pair stands for a byte that is no UTF-8; columns of parquet files cannot hold it.
    return _visible(f"{folder}{slash}{stem}") if stem else "", suffix.lower()


def _visible(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _add(found: _Found, suffix: str, member: tarfile.TarInfo, archive: tarfile.TarFile) -> None:
    sample = found.sample
    if is_image_name(f"x.{suffix}"):
        found.pictures += 1
        plain = "." not in suffix
        if found.pictures > 1 and (found.plain or not plain):
            return
        found.plain, sample.image, sample.problem = plain, None, None
        name = _visible(member.name)
        if not member.isfile():
            sample.problem = (
                f"{name} is a link to {_visible(member.linkname)}, and links are not followed: make the tar with "
                "the files themselves (tar --dereference --hard-dereference)"
            )
            return
        if member.size > MOST_BYTES:
            sample.problem = f"{name} has {member.size:,} bytes, more than {MOST_BYTES:,}: scale the picture down first"
            return
        sample.image = _content(archive, member)
    elif suffix in ("txt", "json") and member.isfile() and member.size <= _MOST_TEXT:
        text = _content(archive, member).decode("utf-8", "replace")
        if suffix == "txt":
            sample.caption = text.strip("\r\n")
        else:
            _add_json(sample, text)


def _add_json(sample: Sample, text: str) -> None:
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
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
