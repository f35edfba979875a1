"""What is in an output folder already: damaged files, rows that failed, and inputs that have changed, moved or gone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import (
    BROKEN,
    assert_same_embeddings,
    assert_whole,
    embed,
    end_of,
    jpeg,
    make_tars,
    read_out,
    sample,
    tar_bytes,
)


@pytest.fixture
def tars(tmp_path: Path) -> dict[str, list[str]]:
    return make_tars(tmp_path / "in", 3, 4, broken=(2, 5))


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def other_columns(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.drop_columns(["url"]), path)


def fewer_rows(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.slice(1), path)


@pytest.mark.parametrize("damage", [cut, zeros, empty, other_columns, fewer_rows, Path.unlink])
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_damaged_output_is_found_and_made_again(
    damage: Callable[[Path], None],
    layout: str,
    demo_bundle: Path,
    tmp_path: Path,
    tars: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [tmp_path / "in", "--format", layout, "--json", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    expected = read_out(tmp_path / "out")
    damage(tmp_path / "out" / ("00001.parquet" if layout == "parquet" else "metadata/metadata_00001.parquet"))
    capsys.readouterr()
    assert embed(demo_bundle, *arguments) == 0
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["there"]) == (1, 2)
    assert [again["shard"] for again in end["again"]] == ([] if damage is Path.unlink else ["00001"])
    assert_same_embeddings(assert_whole(tmp_path / "out", tars, broken=(2, 5)), expected)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("x.parquet --image-column picture", "has no column 'picture', only image, words: pass another --image-column"),
        ("x.parquet y.parquet --towers image,text", "has no column of captions that is known by its name"),
        ("x.parquet --engine openvino", "has no engine 'openvino'"),
        ("--texts empty.txt", "empty.txt has no line"),
        ("empty", "empty has no image file"),
        ("none/*.tar", "none/*.tar matches no file"),
        ("x.parquet --format npy --towers image,audio", "there is no tower 'audio'"),
        ("x.parquet --ray local --engine openvino", "has no engine 'openvino'"),
        ("x.parquet --ray auto", "no Ray runs on this machine"),
    ],
)
def test_a_mistake_makes_no_folder(
    arguments: str,
    words: str,
    demo_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x.parquet", "y.parquet"):
        pq.write_table(pa.table({"image": [jpeg(0)], "words": ["a"]}), name)
    Path("empty.txt").write_text("")
    Path("empty").mkdir()
    assert embed(demo_bundle, *arguments.split(), "--out", "out") == 1
    said = capsys.readouterr()
    assert words in said.err
    assert said.err.count("\n") == 1
    assert not Path("out").exists()


def test_a_column_that_only_some_files_lack(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The others are made."""
    pq.write_table(pa.table({"x": [1]}), tmp_path / "a.parquet")
    (tmp_path / "b.parquet").write_bytes(b"no parquet")
    pq.write_table(pa.table({"image": [jpeg(0)]}), tmp_path / "c.parquet")
    assert embed(demo_bundle, tmp_path / "*.parquet", "--out", tmp_path / "out", "--json") == 1
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["failed"]) == (1, 2)


@pytest.mark.parametrize("damage", [cut, zeros, empty, Path.unlink])
def test_a_damaged_array_is_found_and_made_again(
    damage: Callable[[Path], None], demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]]
) -> None:
    arguments = [tmp_path / "in", "--format", "npy", "--towers", "image,text", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    file = tmp_path / "out/text_emb/text_emb_00002.npy"
    before = np.load(file)
    damage(file)
    assert embed(demo_bundle, *arguments) == 0
    np.testing.assert_allclose(np.load(file).astype(np.float32), before.astype(np.float32), atol=2e-3)
    assert_whole(tmp_path / "out", tars, broken=(2, 5))


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_inputs_that_change_between_two_jobs(
    layout: str, demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [f"{tmp_path}/in/{{00000..00002}}.tar", "--format", layout, "--json", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    first = read_out(tmp_path / "out")
    (tmp_path / "in/00000.tar").unlink()
    (tmp_path / "in/00001.tar").write_bytes(tar_bytes([file for i in range(50, 53) for file in sample(f"{i:06d}", i)]))
    capsys.readouterr()
    assert embed(demo_bundle, *arguments) == 1
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["there"], end["failed"]) == (0, 2, 1)
    assert "pass --replace-changed" in end["problems"][0]["reason"]
    assert_same_embeddings(assert_whole(tmp_path / "out", tars, broken=(2, 5)), first)
    assert embed(demo_bundle, *arguments, "--replace-changed") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["there"], end["failed"]) == (1, 2, 0)
    assert_whole(tmp_path / "out", tars | {"00001": ["000050", "000051", "000052"]}, broken=(2,))
    assert embed(demo_bundle, *arguments, "--replace-changed") == 0
    assert end_of(capsys.readouterr().out)["there"] == 3


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_failed_rows_are_tried_again(
    layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Pictures named by a parquet file are not part of its identity: they may be fetched later.
    for i in (0, 1, 3):
        (tmp_path / f"{i}.jpg").write_bytes(BROKEN if i == 3 else jpeg(i))
    names, captions = [f"{i}.jpg" for i in range(4)], [f"caption {i}" for i in range(4)]
    table = pa.table({"key": [f"{i:06d}" for i in range(4)], "image_path": names, "caption": captions})
    pq.write_table(table, tmp_path / "x.parquet")
    keys = {"x": [f"{i:06d}" for i in range(4)]}
    arguments = [tmp_path / "x.parquet", "--format", layout, "--json", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    assert end_of(capsys.readouterr().out)["errors"] == 2
    assert_whole(tmp_path / "out", keys, broken=(2, 3))
    (tmp_path / "2.jpg").write_bytes(jpeg(2))
    assert embed(demo_bundle, *arguments) == 0
    assert end_of(capsys.readouterr().out)["there"] == 1
    for broken in ((3,), ()):
        assert embed(demo_bundle, *arguments, "--retry-failed") == 0
        end = end_of(capsys.readouterr().out)
        assert (end["made"], end["errors"], end["again"][0]["reason"]) == (1, len(broken), "it had rows that failed")
        assert_whole(tmp_path / "out", keys, broken=broken)
        (tmp_path / "3.jpg").write_bytes(jpeg(3))
    assert embed(demo_bundle, *arguments, "--retry-failed") == 0
    assert end_of(capsys.readouterr().out)["there"] == 1


def test_a_tar_that_is_cut_and_fetched_again(
    demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    file, arguments = tmp_path / "in/00001.tar", [tmp_path / "in", "--json", "--out", f"{tmp_path}/out/"]
    whole = file.read_bytes()
    file.write_bytes(whole[: whole.index(jpeg(6)) + 20])
    assert embed(demo_bundle, *arguments) == 0
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["rows"], end["errors"], len(end["cut"])) == (3, 11, 3, 1)
    assert "00001.tar is cut off" in end["cut"][0]
    assert_whole(tmp_path / "out", tars | {"00001": tars["00001"][:3]}, broken=(2, 5, 6))
    file.write_bytes(whole)
    assert embed(demo_bundle, *arguments, "--replace-changed") == 0
    assert end_of(capsys.readouterr().out)["made"] == 1
    assert_whole(tmp_path / "out", tars, broken=(2, 5))


def test_inputs_that_were_moved_and_removed(demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]]) -> None:
    out = ["--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, tmp_path / "in", *out) == 0
    (tmp_path / "in").rename(tmp_path / "moved")
    assert embed(demo_bundle, tmp_path / "moved", *out) == 0
    shutil.rmtree(tmp_path / "moved")
    assert embed(demo_bundle, f"{tmp_path}/moved/{{00000..00002}}.tar", *out) == 0
    assert_whole(tmp_path / "out", tars, broken=(2, 5))


def test_a_tar_that_is_missing_or_none_fails_alone(
    demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in/00001.tar").write_bytes(b"<html>503</html>")
    pattern, out = f"{tmp_path}/in/{{00000..00003}}.tar", f"{tmp_path}/out/"
    assert embed(demo_bundle, pattern, "--json", "--out", out) == 1
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["failed"]) == (2, 2)
    reasons = {problem["shard"]: problem["reason"] for problem in end["problems"]}
    assert "00001.tar is no tar" in reasons["00001"]
    assert "00003.tar is not there" in reasons["00003"]
    assert_whole(tmp_path / "out", {name: tars[name] for name in ("00000", "00002")}, broken=(2, 5))
