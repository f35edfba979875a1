"""Inputs of a bulk job that are named by several paths, or beside others: no row is made twice, none is left out in silence."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import embed, end_of, jpeg, make_tars, member, read_out, tar_bytes

from engines.errors import InputError
from engines.shards.input_shards import Sources


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with pictures in ``photos`` and ``photos/cats``, and two tars in ``tars``."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos/1.jpg", "photos/cats/2.jpg", "photos-2/3.jpg"):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_bytes(jpeg(1))
    make_tars(Path("tars"), 2, 2)
    Path("link").symlink_to("photos")
    return tmp_path


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        ("photos photos/", "photos/ is named twice, also as photos: name it once"),
        ("photos photos-2/../photos", "photos-2/../photos is named twice, also as photos"),
        ("photos HERE/photos", "is named twice, also as photos"),
        ("link photos", "photos is named twice, also as link"),
        ("photos/cats photos", "photos/cats is in photos, which is named, too: name one of them"),
        ("photos/cats/2.jpg photos", "photos/cats/2.jpg is in photos, which is named, too"),
        ("photos/1.jpg photos/cats/../1.jpg", "is named twice, also as photos/1.jpg"),
        ("tars/*.tar */00000.tar", "tars/00000.tar is named twice: name it once"),
        ("tars HERE/tars/00001.tar", "is named twice, also as tars/00001.tar"),
        ("tars/00000.tar file://HERE/tars/./00000.tar", "is named twice, also as tars/00000.tar"),
        ("memory://in/00.tar memory:///in//00.tar", "memory:///in//00.tar is named twice, also as memory://in/00.tar"),
    ],
)
def test_an_input_that_is_named_twice_is_refused(paths: str, words: str, here: Path) -> None:
    with pytest.raises(InputError) as error:
        Sources(tuple(path.replace("HERE", str(here)) for path in paths.split()))
    assert words in str(error.value)


def test_inputs_beside_one_another_are_not(here: Path) -> None:
    Path("tars/2.tar").symlink_to("00000.tar")  # whoever makes a link to a tar wants its rows twice
    shards = Sources(("photos", "photos-2", "tars/*.tar")).shards()
    assert [(shard.name, len(shard.items)) for shard in shards] == [
        ("00000", 0),
        ("00001", 0),
        ("2", 0),
        ("images-00000000", 3),
    ]


def test_a_file_that_one_pattern_gives_twice(here: Path) -> None:
    Path("tars/x/y/x").mkdir(parents=True)
    make_tars(Path("tars/x/y/x"), 1, 1)
    assert [shard.name for shard in Sources(("tars/**/x/**/*.tar",)).shards()] == ["x/y/x/00000"]


@pytest.mark.parametrize(
    ("inputs", "out"),
    [
        ("tars", "tars/"),
        ("tars", "file://HERE/tars"),
        ("photos", "file://HERE/photos"),
        ("link", "photos"),
        ("rows/*.parquet", "rows/../rows"),
        ("rows/**/*.parquet", "rows/out"),
        ("x.parquet", "."),
        ("photos", ""),
    ],
)
def test_an_output_that_the_next_job_would_read_is_refused(
    inputs: str, out: str, here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows").mkdir()
    for name in ("rows/x.parquet", "x.parquet"):
        pq.write_table(pa.table({"image": [jpeg(1)]}), name)
    before = sorted(here.rglob("*"))
    assert embed(demo_bundle, inputs, "--out", out.replace("HERE", str(here))) == 1
    assert "pass a" in capsys.readouterr().err
    assert sorted(here.rglob("*")) == before


def test_outputs_inside_a_folder_of_pictures_are_no_inputs(here: Path, demo_bundle: Path) -> None:
    for _ in range(2):
        assert embed(demo_bundle, "photos", "--out", "photos/out") == 0
    assert len(read_out(Path("photos/out"))["photos-00000000"].keys) == 2


def test_equal_lines_of_a_list_are_counted(here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("list.txt").write_text("photos/1.jpg\n./photos/1.jpg\nphotos/1.jpg\n")
    assert embed(demo_bundle, "--list", "list.txt", "--out", "out", "--json") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["rows"], end["duplicate_keys"]) == (3, 1)


def test_names_are_found_once_for_all_shards(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It took a minute for 20,000 pictures beside 1,000 tars."""
    calls = []
    common = os.path.commonpath
    monkeypatch.setattr(os.path, "commonpath", lambda paths: calls.append(paths) or common(paths))
    sources = Sources(("tars/*.tar", "photos/1.jpg", "photos/cats/2.jpg", "photos-2/3.jpg"), rows=1)
    assert sources.count() == len(list(sources.shards())) == 5
    assert len(calls) == 1


def test_a_folder_by_another_path_goes_on_only_as_it_was_named(
    here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(demo_bundle, "photos", "--out", "out", "--json") == 0
    for same in ("photos/", "./photos"):
        capsys.readouterr()
        assert embed(demo_bundle, same, "--out", "out", "--json") == 0
        assert end_of(capsys.readouterr().out)["there"] == 1
    assert embed(demo_bundle, here / "photos", "--out", "out", "--json") == 1
    reason = end_of(capsys.readouterr().out)["problems"][0]["reason"]
    assert (
        f"was made from photos, and this job names {here}/photos: if it is the same folder, name it as before" in reason
    )
    assert embed(demo_bundle, here / "photos", "--out", "out", "--replace-changed") == 0
    assert all(os.path.isabs(key) for key in read_out(Path("out"))["photos-00000000"].keys)


def test_tars_by_another_path_go_on(here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed(demo_bundle, "tars", "--out", "out", "--json") == 0
    capsys.readouterr()
    assert embed(demo_bundle, f"{here}/tars/*.tar", "--out", "out", "--json") == 0
    assert end_of(capsys.readouterr().out)["there"] == 2


def test_pictures_beside_tars_are_counted(here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("1.jpg", "2.png", "more/3.jpg", "named/4.jpg", "_stats.json", "x.tar.zst", ".git/x", ".5.jpg"):
        (Path("tars") / name).parent.mkdir(exist_ok=True)
        (Path("tars") / name).write_bytes(jpeg(1))
    Path("tars/self").symlink_to("self")
    Path("tars/self.d").symlink_to("self.d")
    assert embed(demo_bundle, "tars", "tars/named/", "tars/1.jpg", "--out", "out", "--json") == 0
    said = capsys.readouterr()
    end = end_of(said.out)
    assert (end["made"], end["rows"]) == (3, 6)
    beside = "beside tars or parquet files"
    assert end["left_out"] == {f"picture {beside}": 1, f"folder {beside}": 1, f"other file {beside}": 3}
    assert f"left out: 3 other files {beside}, 1 folder {beside}, 1 picture {beside}\n" in said.err


def test_folders_that_a_pattern_matches_are_counted(
    here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A shell would name the folder, too, and then its pictures are read."""
    assert embed(demo_bundle, "photos/*", "--out", "out", "--json") == 0
    assert end_of(capsys.readouterr().out)["left_out"] == {"folder that a pattern matches": 1}
    assert embed(demo_bundle, *Path("photos").glob("*"), "--out", "other", "--json") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["rows"], end["left_out"]) == (2, {})


def test_further_pictures_of_a_sample_are_counted(
    here: Path, demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In webdataset's convention a.0.jpg and a.1.jpg are one sample."""
    files = [member(f"{key}.{i}.jpg", jpeg(i)) for key in "ab" for i in range(3)]
    Path("many.tar").write_bytes(tar_bytes([*files, member("c.jpg", jpeg(5)), member("c.mask.png", jpeg(6))]))
    assert embed(demo_bundle, "many.tar", "--out", "out", "--json") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["rows"], end["errors"], end["further_pictures"]) == (3, 0, 5)
    shard = read_out(Path("out"))["many"]
    assert (shard.keys, shard.record["further_pictures"]) == (["a", "b", "c"], 5)
    assert embed(demo_bundle, "many.tar", "--out", "again") == 0
    words = "left out: 5 pictures in tars, because a sample is one row"
    assert words in capsys.readouterr().out
