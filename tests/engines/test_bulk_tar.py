"""Tars that are cut off, damaged, empty, huge by their headers, or have other files than pictures: no row is lost in silence."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_shards import jpeg, sample, tar_bytes

from engines.errors import InputError
from engines.shards.read_tar import read_tar
from engines.shards.samples import MOST_BYTES, ReaderNotes, Sample

COUNT = 4
STYLES = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gz": functools.partial(gzip.compress, mtime=0),
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The path of the tar that a test writes."""
    return tmp_path_factory.mktemp("tar") / "x.tar"


def read(file: Path, data: bytes) -> tuple[list[Sample], ReaderNotes]:
    file.write_bytes(data)
    notes = ReaderNotes()
    return list(read_tar(str(file), notes)), notes


def read_or_refuse(file: Path, data: bytes) -> tuple[list[Sample], ReaderNotes] | None:
    """What was read; None where the error says that the file is no tar."""
    try:
        return read(file, data)
    except InputError as error:
        message = str(error)
    assert "is no tar" in message
    assert "\n" not in message
    return None


def key(index: int, style: str = "ustar") -> str:
    """A name that is too long for one header, unless the style is ustar."""
    return f"{index:04d}" if style == "ustar" else f"{'folder/' * 20}{index:04d}"


@functools.cache
def whole(style: str = "ustar") -> bytes:
    files = [file for i in range(COUNT) for file in sample(key(i, style), i)]
    return tar_bytes(files, style=STYLES[style])


def ends(style: str) -> list[int]:
    """For each sample the position of the first byte after its last member."""
    with tarfile.open(fileobj=io.BytesIO(whole(style))) as tar:
        found = tar.getmembers()
        return [found[3 * i + 2].offset_data + found[3 * i + 2].size for i in range(COUNT)]


def assert_right(samples: list[Sample], style: str) -> None:
    """All samples without a problem are as they were written, and are the first ones, in their order."""
    assert [sample.key for sample in samples] == [key(i, style) for i in range(len(samples))]
    for i, found in enumerate(samples):
        if found.problem is None:
            assert (found.image, found.caption, found.url) == (jpeg(i), f"caption {i}", f"http://x/{i}")


@settings(max_examples=80, deadline=None)
@given(style=st.sampled_from(sorted(STYLES)), data=st.data())
def test_all_rows_before_a_cut_are_there(style: str, data: st.DataObject, file: Path) -> None:
    tar = whole(style)
    edges = [position for end in ends(style) for position in (end - 1, end, -(-end // 512) * 512)]
    position = data.draw(st.integers(0, len(tar)) | st.sampled_from(edges))
    assert_cut(style, position, file)


def assert_cut(style: str, position: int, file: Path) -> None:
    before = [end for end in ends(style) if end <= position]
    result = read_or_refuse(file, whole(style)[:position])
    if result is None:
        assert not before
        return
    samples, notes = result
    assert_right(samples, style)
    problems = [found for found in samples if found.problem is not None]
    assert len(samples) >= len(before)
    if position >= -(-ends(style)[-1] // 512) * 512 + 512:  # with the first half of the end marker
        assert (len(samples), problems, notes.cut) == (COUNT, [], None)
        return
    assert notes.cut is not None
    assert "cut off or damaged" in notes.cut
    assert problems == samples[-1:]


def test_every_kind_of_place_of_a_cut(file: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(whole())) as tar:
        second = tar.getmembers()[3]
    places = {
        "in a header": second.offset + 100,
        "between samples": second.offset,
        "in a member": second.offset_data + 50,
        "in its padding": second.offset_data + second.size + 1,
        "after one": second.offset_data + -(-second.size // 512) * 512,
    }
    for place in places.values():
        assert_cut("ustar", place, file)


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(sorted(COMPRESSED)), share=st.floats(0, 0.999))
@example(kind="gz", share=0.999)
def test_a_compressed_tar_that_is_cut_is_told(kind: str, share: float, file: Path) -> None:
    data = COMPRESSED[kind](whole())
    result = read_or_refuse(file, data[: int(share * len(data))])
    if result is None:
        return
    samples, notes = result
    assert_right(samples, "ustar")
    assert notes.cut is not None
    assert [found.key for found in samples if found.problem is not None] == [found.key for found in samples[-1:]]


@pytest.mark.parametrize("kind", COMPRESSED)
def test_whole_compressed_tars(kind: str, file: Path) -> None:
    data, half = whole(), len(whole()) // 2
    for compressed in (COMPRESSED[kind](data), COMPRESSED[kind](data[:half]) + COMPRESSED[kind](data[half:])):
        samples, notes = read(file, compressed)
        assert_right(samples, "ustar")
        assert (len(samples), notes.cut) == (COUNT, None)


def test_damage_that_only_the_sum_of_a_gzip_stream_shows(file: Path) -> None:
    data = bytearray(gzip.compress(whole(), compresslevel=0, mtime=0))
    data[data.index(jpeg(2)[100:140]) + 20] ^= 1
    _, notes = read(file, bytes(data))
    assert notes.cut is not None


@settings(max_examples=80, deadline=None)
@given(
    style=st.sampled_from(["ustar", "gnu"]),
    position=st.floats(0, 0.9999),
    damage=st.sampled_from([b"\0" * 512, b"\xff" * 512, b"\0" * 8, b"9" * 12, b"\x80" + b"\xff" * 11, b"x"]),
    aligned=st.booleans(),
)
def test_no_row_is_lost_in_silence(style: str, position: float, damage: bytes, aligned: bool, file: Path) -> None:
    data = bytearray(whole(style))
    last = ends(style)[-1]
    start = int(position * last)
    start -= start % 512 if aligned else 0
    data[start : start + len(damage)] = damage[: last - start]
    result = read_or_refuse(file, bytes(data))
    if result is None:
        assert start < 1536  # the first header, with the long name before it
        return
    samples, notes = result
    assert len(samples) >= COUNT or notes.cut is not None


@settings(max_examples=80, deadline=None)
@given(head=st.binary(max_size=1200), where=st.integers(0, 8), compress=st.sampled_from(["", *COMPRESSED]))
def test_any_bytes_are_a_tar_or_an_error(head: bytes, where: int, compress: str, file: Path) -> None:
    data = whole()[: where * 512] + head
    read_or_refuse(file, COMPRESSED[compress](data) if compress else data)


def with_size(name: str, size: int, kind: bytes = tarfile.REGTYPE) -> bytes:
    """A header that claims a size, in GNU's form for sizes from 8 GB."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("name", ["b.jpg", "b.bin", "b.txt", "b"])
@pytest.mark.parametrize("size", [MOST_BYTES + 1, 1 << 40, (1 << 62) + 5])
def test_huge_sizes_in_headers(name: str, size: int, file: Path) -> None:
    first = tar_bytes(sample("a", 0))[: -(-ends("ustar")[0] // 512) * 512]
    samples, notes = read(file, first + with_size(name, size) + bytes(10_000))
    assert notes.cut is not None
    assert [found.key for found in samples] == (["a"] if name == "b" else ["a", "b"])
    assert samples[-1].problem == notes.cut


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_a_name_of_gigabytes_is_not_read(kind: bytes, file: Path) -> None:
    first = whole()[: -(-ends("ustar")[0] // 512) * 512]
    samples, notes = read(file, first + with_size("x", 5 << 30, kind) + b"a" * 10_000)
    assert len(samples) == 1
    assert notes.cut is not None
    assert "a name of 5,368,709,120 bytes" in notes.cut


def test_empty_tars_and_files_that_are_none(file: Path) -> None:
    samples, notes = read(file, tar_bytes([]))
    assert (samples, notes.cut) == ([], None)
    for data in (b"", b"no tar", jpeg(0) * 3, b"PK\x03\x04" + bytes(2000), gzip.compress(b"no tar" * 200)):
        with pytest.raises(InputError, match="is no tar"):
            read(file, data)
    with pytest.raises(InputError, match="is not there"):
        list(read_tar(f"{file}.gone", ReaderNotes()))


def test_two_joined_tars_are_told(file: Path) -> None:
    samples, notes = read(file, whole() + tar_bytes(sample("later", 9)))
    assert len(samples) == COUNT
    assert notes.cut is not None
    assert "several tars in one file" in notes.cut
