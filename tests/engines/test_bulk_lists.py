"""Folders of pictures, lists of files and files of texts as inputs of a bulk job."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from made_shards import BROKEN, Shard, embed, end_of, jpeg, read_out

from engines.errors import InputError
from engines.shards.input_shards import Sources


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Seven pictures, of which one is unreadable, in two folders."""
    folder = tmp_path / "photos"
    (folder / "deep").mkdir(parents=True)
    for i in range(7):
        (folder / ("deep" if i % 2 else ".") / f"{i}.jpg").write_bytes(BROKEN if i == 4 else jpeg(i))
    return folder


def keys_of(shards: dict[str, Shard]) -> list[str]:
    return sorted(key for shard in shards.values() for key in shard.all_keys)


def run(bundle: Path, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert embed(bundle, *arguments, "--json") == code
    return end_of(capsys.readouterr().out)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_folder_is_cut_into_shards(
    layout: str, photos: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "notes.mov").write_text("left out")
    out = tmp_path / "out"
    end = run(demo_bundle, capsys, photos, "--rows-per-shard", 3, "--format", layout, "--out", out)
    assert (end["made"], end["rows"], end["errors"], end["left_out"]) == (3, 7, 1, {".mov": 1})
    shards = read_out(out)
    assert set(shards) == {f"photos-{i:08d}" for i in range(3)}
    assert keys_of(shards) == sorted(str(path) for path in photos.rglob("*.jpg"))
    assert run(demo_bundle, capsys, photos, "--rows-per-shard", 3, "--format", layout, "--out", out)["there"] == 3


def test_a_folder_that_changes_between_two_jobs(
    photos: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [photos, "--rows-per-shard", 3, "--out", tmp_path / "out"]
    run(demo_bundle, capsys, *arguments)
    (photos / "deep/9.jpg").write_bytes(jpeg(9))
    end = run(demo_bundle, capsys, *arguments, code=1)
    assert end["failed"] >= 1
    assert all("pass --replace-changed" in problem["reason"] for problem in end["problems"])
    run(demo_bundle, capsys, *arguments, "--replace-changed")
    assert keys_of(read_out(tmp_path / "out")) == sorted(str(path) for path in photos.rglob("*.jpg"))
    (photos / "4.jpg").write_bytes(jpeg(4))  # mended, of another size
    end = run(demo_bundle, capsys, *arguments, "--replace-changed")
    assert (end["made"], end["errors"]) == (1, 0)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_shards_of_an_earlier_longer_input_are_told_or_removed(
    layout: str, photos: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "photos-00000009.jpg"
    other.write_bytes(jpeg(8))
    out = ["--format", layout, "--out", tmp_path / "out"]
    run(demo_bundle, capsys, other, *out)  # another job's shard with a similar name
    run(demo_bundle, capsys, photos, "--rows-per-shard", 2, *out)
    end = run(demo_bundle, capsys, photos, "--rows-per-shard", 4, *out, code=1)
    assert [problem["shard"] for problem in end["problems"]] == [f"photos-{i:08d}" for i in range(4)]
    assert "had more rows: pass --replace-changed" in end["problems"][-1]["reason"]
    for i in (0, 1, 2, 3):
        next(photos.rglob(f"{i}.jpg")).unlink()
    run(demo_bundle, capsys, photos, "--rows-per-shard", 2, *out, "--replace-changed")
    files = sorted(str(path) for path in photos.rglob("*.jpg"))
    assert keys_of(read_out(tmp_path / "out")) == sorted([*files, str(other)])
    if layout == "npy":
        assert len(list((tmp_path / "out/img_emb").iterdir())) == 3


def test_a_list_with_missing_files_blank_lines_and_a_mark(
    photos: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [str(photos / "0.jpg"), "", str(photos / "gone.jpg"), "   ", str(photos / "2.jpg"), str(photos)]
    expected = [name for name in names if name.strip()]
    listing = tmp_path / "list.txt"
    for number, encoding in enumerate(("utf-8", "utf-8-sig", "utf-16", "utf-32")):
        listing.write_bytes("\r\n".join(names).encode(encoding))
        end = run(demo_bundle, capsys, "--list", listing, "--out", tmp_path / f"out{number}")
        assert (end["made"], end["rows"], end["errors"]) == (1, 4, 2)
        shards = read_out(tmp_path / f"out{number}")
        assert shards["list-00000000"].keys == [expected[0], expected[2]]
        assert {key for key, _ in shards["list-00000000"].problems} == {expected[1], expected[3]}


def test_texts(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ["a red circle", "", "x" * 5000, "blue \u9ed2", "a red circle"]
    (tmp_path / "texts.txt").write_text("\n".join(lines) + "\n")
    for layout in ("parquet", "npy"):
        arguments = ["--texts", tmp_path / "texts.txt", "--rows-per-shard", 2, "--format", layout]
        end = run(demo_bundle, capsys, *arguments, "--out", tmp_path / layout)
        assert (end["made"], end["rows"], end["errors"]) == (3, 5, 0)
        shards = read_out(tmp_path / layout)
        assert keys_of(shards) == [f"{i:08d}" for i in range(5)]
        assert [caption for shard in shards.values() for caption in shard.captions] == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no file"),
        (b"\n \n", "names no file"),
        (b"a\0b.jpg\n", "zero byte"),
        (b"\xff\xfe\x00", "save it as"),
    ],
)
def test_lists_that_are_none(
    content: bytes, message: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listing = tmp_path / "list.txt"
    listing.write_bytes(content)
    assert embed(demo_bundle, "--list", listing, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error


def test_a_file_of_texts_without_a_line(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("")
    assert embed(demo_bundle, "--texts", tmp_path / "texts.txt", "--out", tmp_path / "out") == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'texts.txt'} has no line\n"


def test_file_names_that_are_no_utf8(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, data in ((b"caf\xe9.jpg", jpeg(0)), (b"br\xf6ken.jpg", BROKEN)):
        Path(os.fsdecode(bytes(folder) + b"/" + name)).write_bytes(data)
    for layout in ("parquet", "npy"):
        end = run(demo_bundle, capsys, folder, "--format", layout, "--out", tmp_path / layout)
        assert (end["rows"], end["errors"]) == (2, 1)
        json.dumps(end).encode()
        assert keys_of(read_out(tmp_path / layout)) == [f"{folder}/br\\udcf6ken.jpg", f"{folder}/caf\\udce9.jpg"]


def test_folders_named_in_different_ways(
    photos: Path, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    other = tmp_path / "other"
    other.mkdir()
    (other / "x.jpg").write_bytes(jpeg(8))
    assert embed(demo_bundle, "photos", other, "--out", "out") == 0
    assert len(keys_of(read_out(tmp_path / "out"))) == 8


@pytest.mark.parametrize("name", ["_photos", ".photos", "..."])
def test_names_of_folders_that_would_hide_the_shards(name: str, demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "x.jpg").write_bytes(jpeg(8))
    assert embed(demo_bundle, tmp_path / name, "--out", tmp_path / "out") == 0
    (shard,) = read_out(tmp_path / "out")
    assert not shard.startswith((".", "_"))


def test_urls_in_a_list(photos: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file: URL is the path; what is elsewhere is not fetched, and its row says so."""
    listing, url = tmp_path / "list.txt", (photos / "0.jpg").as_uri()
    listing.write_text(f"{url}\nhttps://x/1.jpg\n")
    arguments = ["--list", listing, "--out", tmp_path / "out"]
    assert run(demo_bundle, capsys, *arguments)["errors"] == 1
    shard = read_out(tmp_path / "out")["list-00000000"]
    assert shard.keys == [url]
    assert "https://x/1.jpg is a URL, and pictures are not fetched" in shard.problems[0][1]
    (photos / "0.jpg").write_bytes(jpeg(8))
    assert run(demo_bundle, capsys, *arguments, code=1)["failed"] == 1


def test_patterns(tmp_path: Path) -> None:
    for name in ("a/00.tar", "a/01.tar", "b/00.tar", "b/02.tgz", "b/x.parquet", "b/y.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")

    def names(*patterns: str) -> list[str]:
        return [shard.name for shard in Sources(tuple(f"{tmp_path}/{pattern}" for pattern in patterns)).shards()]

    assert names("a/{00..02}.tar") == ["00", "01", "02"]
    assert names("{a,b}/00.tar") == ["a/00", "b/00"]
    assert names("*/*.t*[rz]") == ["a/00", "a/01", "b/00", "b/02"]
    assert names("b") == ["00", "02", "x"]
    assert names("a/00.tar", "b/02.tgz") == ["00", "02"]
    for wrong, message in {
        ("a/00.tar", "a/00.tar"): "named twice",
        ("a/00.tar", "b/00.tar"): "would both be written to 00",
        ("c/*.tar",): "matches no file",
        ("a/{05..01}.tar",): "runs backwards",
        ("b/*",): "y.txt is neither",
    }.items():
        with pytest.raises(InputError, match=message):
            names(*wrong)
