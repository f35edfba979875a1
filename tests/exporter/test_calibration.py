"""Calibration data: what is understood, what is left out and counted, and every wrong input as one sentence."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.manifest import Preprocess
from exporter.datasets import calibration
from exporter.datasets.calibration import decode_images, open_calibration
from exporter.errors import ExportError

CONFIG = Preprocess(
    size=(16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, interpolation="bicubic", resize_mode="shortest", fill_color=0
)


def picture(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for i in range(140):
        picture(i).save((root / "more" if i % 2 else root) / f"{i:03}.png")
    return root


def open_images(path: Path | None) -> calibration.Calibration:
    return open_calibration(path, None, is_demo=False, needs_images=True)


def test_a_folder(folder: Path, tmp_path: Path) -> None:
    found = decode_images(open_images(folder), CONFIG, 130, tmp_path)
    assert found.pixels.shape == (130, 16, 16, 3)
    assert (found.skipped, found.blank) == (0, 0)
    pixels = np.array(found.pixels)  # the file that they are mapped from is written anew
    again = np.array(decode_images(open_images(folder), CONFIG, 130, tmp_path).pixels)
    assert np.array_equal(pixels, again)
    other = open_calibration(folder, None, is_demo=False, needs_images=True, seed=1)
    assert not np.array_equal(pixels, decode_images(other, CONFIG, 130, tmp_path).pixels)


def test_a_webdataset_and_a_list_have_the_folders_pictures(folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.png"))
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for i, file in enumerate(files):
            data = file.read_bytes()
            for name, content in ((f"{i:04}.png", data), (f"{i:04}.txt", b"a caption")):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    (tmp_path / "list.txt").write_text("\n".join(map(str, files)))

    def contents(path: Path) -> set[bytes]:
        return {row.tobytes() for row in decode_images(open_images(path), CONFIG, 140, tmp_path).pixels}

    assert contents(tmp_path / "shard-0.tar") == contents(tmp_path / "list.txt") == contents(folder)


def test_bad_files_are_left_out_and_counted(folder: Path, tmp_path: Path) -> None:
    for i in range(3):
        (folder / f"broken-{i}.jpg").write_bytes(b"no picture")
    for i in range(4):
        Image.new("RGB", (30, 30), (i, 50, 60)).save(folder / f"blank-{i}.png")
    found = decode_images(open_images(folder), CONFIG, 200, tmp_path)
    assert (len(found.pixels), found.skipped, found.blank) == (140, 3, 4)
    assert "broken" in found.first_skipped or found.first_skipped


@pytest.mark.parametrize("kind", ["unreadable", "of one colour"])
def test_too_few_usable_pictures(kind: str, folder: Path, tmp_path: Path) -> None:
    for file in list(folder.rglob("*.png"))[:30]:
        if kind == "unreadable":
            file.write_bytes(b"")
        else:
            Image.new("RGB", (30, 30), (9, 9, 9)).save(file)
    reason = "30 cannot be read" if kind == "unreadable" else "30 are of one colour"
    with pytest.raises(ExportError, match=rf"110 pictures of pictures can be used.*{reason}.*at least 128"):
        decode_images(open_images(folder), CONFIG, 512, tmp_path)


def test_what_was_named_wrongly(folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    picture(0).save(few / "a.png")
    (tmp_path / "empty.txt").write_text("\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "cut.tar").write_bytes(b"x" * 700)
    for path, words in (
        (None, "at least 128 pictures"),
        (tmp_path / "nowhere", "is not there"),
        (few, "has 1 image file: calibration needs at least 128"),
        (few / "a.png", "is one image"),
        (empty, "no image file"),
        (tmp_path / "empty.txt", "names no file"),
    ):
        with pytest.raises(ExportError, match=words):
            open_images(path)
    with pytest.raises(ExportError, match="cannot be read to its end"):
        decode_images(open_images(tmp_path / "cut.tar"), CONFIG, 200, tmp_path)


def test_captions(folder: Path, tmp_path: Path) -> None:
    assert len(open_images(folder).captions) == 512
    (folder / "captions.txt").write_text("one\ntwo\n\none\n")
    assert open_images(folder).captions == ("one", "two")
    own = tmp_path / "own.txt"
    own.write_text("\n".join(f"caption {i}" for i in range(2000)))
    named = open_calibration(folder, own, is_demo=False, needs_images=True)
    assert len(named.captions) == 512
    assert named.captions_source == "512 captions of own.txt"
    own.write_text("\n")
    with pytest.raises(ExportError, match="no caption"):
        open_calibration(folder, own, is_demo=False, needs_images=True)
    own.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ExportError, match="UTF-8"):
        open_calibration(folder, own, is_demo=False, needs_images=True)


def test_a_text_tower_needs_no_images() -> None:
    found = open_calibration(None, None, is_demo=False, needs_images=False)
    assert found.pictures is None
    assert len(found.captions) == 512


def test_the_demo_brings_its_own(tmp_path: Path) -> None:
    found = open_calibration(None, None, is_demo=True, needs_images=True)
    images = decode_images(found, CONFIG, 130, tmp_path)
    assert len(images.pixels) == 130
    assert len(set(found.captions)) == 512


def test_what_is_left_out_is_said(folder: Path, tmp_path: Path) -> None:
    (folder / "captions.txt").write_text("one\n")
    assert open_images(folder).notes == ()
    for name in ("a.mov", "more/b.MOV", "more/captions.txt"):
        (folder / name).write_text("x")
    assert open_images(folder).notes == ("calibration images left out: 2 .mov, 1 .txt: not among the image suffixes",)
    for file in list(folder.rglob("*.png"))[:20]:
        file.unlink()
    with pytest.raises(
        ExportError, match=r"has 120 image files \(left out: 2 \.mov, .*\): calibration needs at least 128"
    ):
        open_images(folder)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_and_captions_of_windows(encoding: str, folder: Path, tmp_path: Path) -> None:
    files = sorted(folder.rglob("*.png"))[:128]
    (tmp_path / "list.txt").write_bytes("".join(f"{file}\r\n" for file in files).encode(encoding))
    (tmp_path / "captions.txt").write_bytes("one\r\ntwo\r\n".encode(encoding))
    found = open_calibration(tmp_path / "list.txt", tmp_path / "captions.txt", is_demo=False, needs_images=True)
    assert found.captions == ("one", "two")
    assert len(decode_images(found, CONFIG, 128, tmp_path).pixels) == 128


def test_a_webdataset_of_other_pictures_gives_one_of_each_sample(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "shard-0.tar", "w") as archive:
        for i in range(130):
            for suffix in ("tiff", "bmp", "jpg")[: 1 + (i % 3)]:
                data = io.BytesIO()
                picture(i).save(data, "JPEG" if suffix == "jpg" else suffix)
                member = tarfile.TarInfo(f"{i:04}.{suffix}")
                member.size = len(data.getvalue())
                archive.addfile(member, io.BytesIO(data.getvalue()))
    pictures = open_images(tmp_path / "shard-0.tar").pictures
    assert pictures is not None
    kinds = [data[:2] for data in pictures()]
    assert len(kinds) == 130
    assert {kinds.count(head) for head in (b"II", b"BM", b"\xff\xd8")} <= {43, 44}


def test_a_path_that_the_system_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from exporter.__main__ import main

    command = ["demo", "--int8", "--calibration", str(tmp_path / ("a" * 300)), "--out", str(tmp_path / "b")]
    assert main(command) == 1
    assert capsys.readouterr().err.endswith("aaa cannot be reached (File name too long)\n")
    assert not (tmp_path / "b").exists()
