"""The files of a tar: links, sparse files, names that are no UTF-8, pieces that are missing or come twice."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from made_shards import jpeg, member, sample, tar_bytes

from engines.shards.read_tar import read_tar
from engines.shards.samples import ReaderNotes, Sample

STYLES = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the tar that a test writes."""
    return tmp_path / "x.tar"


def read(file: Path, data: bytes) -> tuple[list[Sample], ReaderNotes]:
    file.write_bytes(data)
    notes = ReaderNotes()
    return list(read_tar(str(file), notes)), notes


def test_a_picture_that_is_too_large_is_an_error_of_its_row(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.shards.read_tar.MOST_BYTES", 1000)
    files = [member("a.jpg", bytes(1001)), member("a.txt", b"a"), *sample("b", 1)]
    samples, notes = read(file, tar_bytes(files))
    assert [found.problem is None for found in samples] == [False, True]
    assert "1,001 bytes, more than 1,000" in (samples[0].problem or "")
    assert notes.cut is None


def test_names_that_are_no_utf8(file: Path) -> None:
    files = [member("caf\udce9.jpg", jpeg(0)), member("caf\udce9.txt", b"caf\xe9")]
    for style in STYLES.values():
        samples, notes = read(file, tar_bytes(files, style=style))
        assert [(found.key, found.caption, found.problem) for found in samples] == [("caf\\udce9", "caf\ufffd", None)]
        cut = tar_bytes(files, style=style).index(jpeg(0)) + 10
        samples, notes = read(file, tar_bytes(files, style=style)[:cut])
        for text in (notes.cut, samples[0].problem):
            assert text is not None
            text.encode()


def test_links_are_told_and_folders_are_left_out(file: Path) -> None:
    files = [
        member("a", b"", tarfile.DIRTYPE),
        member("a/b.folder", b"", tarfile.DIRTYPE),
        *sample("a/0", 0),
        member("a/1.jpg", b"", tarfile.SYMTYPE, "0.jpg"),
        member("a/2.jpg", b"", tarfile.LNKTYPE, "a/0.jpg"),
        member("a/2.txt", b"two"),
        member("a/pipe.jpg", b"", tarfile.FIFOTYPE),
        *sample("a/3", 3),
    ]
    samples, notes = read(file, tar_bytes(files))
    assert [found.key for found in samples] == ["a/0", "a/1", "a/2", "a/3"]
    assert [found.problem is None for found in samples] == [True, False, False, True]
    assert "a/2.jpg is a link to a/0.jpg" in (samples[2].problem or "")
    assert samples[2].caption == "two"
    assert notes.cut is None


def test_a_sparse_file_is_read_with_its_holes(file: Path) -> None:
    # GNU's old form: one piece of 512 bytes at position 1024 of 2048.
    info = tarfile.TarInfo("a.jpg")
    info.size, info.type = 512, tarfile.GNUTYPE_SPARSE
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000002000\x0000000001000\x00"
    header[483:495] = b"00000004000\x00"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    samples, notes = read(file, bytes(header) + b"x" * 512 + tar_bytes(sample("b", 1)))
    assert [found.key for found in samples] == ["a", "b"]
    assert samples[0].image == bytes(1024) + b"x" * 512 + bytes(512)
    assert notes.cut is None


def test_pieces_that_are_missing_or_too_many(file: Path) -> None:
    files = [
        member("only_text.txt", b"words"),
        member("only_picture.jpg", jpeg(1)),
        member("two.png", jpeg(2)),
        member("two.jpg", jpeg(3)),
        member("list.json", b"[1, 2]"),
        member("half.json", b'{"url": "\\ud800", "caption": "\\udfff x"}'),
        member("deep.json", b"[" * 100_000),
        member("number.json", b'{"url": 5, "caption": ["a"]}'),
        member("broken.json", b"{"),
        member("bytes.json", b"\xff\xfe"),
        member("without_suffix", b"x"),
        member(".hidden.jpg", jpeg(4)),
        member("UPPER.JPG", jpeg(5)),
        member("./dotted.jpg", jpeg(6)),
    ]
    samples, notes = read(file, tar_bytes(files))
    found = {found.key: found for found in samples}
    strange = ["list", "half", "deep", "number", "broken", "bytes"]
    assert list(found) == ["only_text", "only_picture", "two", *strange, "UPPER", "dotted"]
    assert (found["only_text"].image, found["only_text"].caption) == (None, "words")
    assert (found["only_picture"].image, found["only_picture"].caption) == (jpeg(1), None)
    assert found["two"].image == jpeg(2)
    assert (found["half"].url, found["half"].caption) == ("?", "? x")
    assert (found["number"].url, found["number"].caption) == (None, None)
    assert found["UPPER"].image == jpeg(5)
    assert all(sample.problem is None for sample in samples)
    assert notes.cut is None


def test_keys_that_come_twice_are_counted_and_kept(file: Path) -> None:
    files = [*sample("a", 0), *sample("a", 1), *sample("b", 2), *sample("a", 3)]
    samples, notes = read(file, tar_bytes(files))
    assert [found.key for found in samples] == ["a", "a", "b", "a"]
    assert [found.image for found in samples] == [jpeg(0), jpeg(1), jpeg(2), jpeg(3)]
    assert notes.duplicate_keys == 2
