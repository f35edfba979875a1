"""Rows that must not be mixed up: other columns, equal names, kills between the files of a shard, damage in earlier shards."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import BROKEN, assert_whole, embed, end_of, jpeg, make_tars, read_out

from engines.__main__ import main
from engines.errors import InputError
from engines.files.output_folder import LocalFolder
from engines.shards.input_shards import Sources


def run(bundle: Path, capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> dict[str, Any]:
    assert embed(bundle, *arguments, "--json") == code
    return end_of(capsys.readouterr().out)


def test_a_tar_with_the_name_of_a_folders_shard(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(jpeg(0))
    make_tars(tmp_path, 1, 1)
    tar = tmp_path / "photos-00000000.tar"
    (tmp_path / "00000.tar").rename(tar)
    with pytest.raises(InputError, match="would both be written to photos-00000000"):
        Sources((str(tar), str(tmp_path / "photos"))).count()
    tar = tar.rename(tmp_path / "photos-00000001.tar")
    assert Sources((str(tar), str(tmp_path / "photos"))).count() == 2


class Killed(BaseException):
    """Stands for a kill: nothing after it happens."""


def killed_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the n-th publication or removal of a file be the first one that does not happen."""
    left = step
    for name in ("publish", "remove"):
        real = getattr(LocalFolder, name)

        def stopped(folder: LocalFolder, *arguments: Any, real: Any = real) -> None:
            nonlocal left
            if not str(arguments[-1]).startswith(".job"):
                left -= 1
                if left < 0:
                    raise Killed
            real(folder, *arguments)

        monkeypatch.setattr(LocalFolder, name, stopped)


@pytest.mark.parametrize("before", [0, 1, 2])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_kills_between_the_files_of_a_shard(before: int, after: int, demo_bundle: Path, tmp_path: Path) -> None:
    """A shard of two rows, of which `before` failed and, when it is made again, `after`; killed at each step."""
    names = ["0.jpg", "1.jpg"]
    pq.write_table(pa.table({"key": ["000000", "000001"], "image_path": names}), tmp_path / "x.parquet")
    arguments = [tmp_path / "x.parquet", "--format", "npy"]

    def pictures(broken: int) -> None:
        for i, name in enumerate(names):
            (tmp_path / name).write_bytes(BROKEN if i < broken else jpeg(i))

    for step in range(5):
        out = tmp_path / f"out{step}"
        pictures(before)
        assert embed(demo_bundle, *arguments, "--out", out) == 0
        pictures(after)
        with pytest.MonkeyPatch.context() as patch:
            killed_at(patch, step)
            if not before:
                os.utime(tmp_path / "x.parquet", ns=(step, step))
            with contextlib.suppress(Killed):
                embed(demo_bundle, *arguments, "--out", out, "--replace-changed" if not before else "--retry-failed")
        assert embed(demo_bundle, *arguments, "--out", out, *([] if before else ["--replace-changed"])) == 0
        shard = read_out(out)["x"]  # arrays and metadata have the same rows, or neither is there
        assert shard.all_keys == ["000000", "000001"]
        assert len(shard.problems) in (before, after)
        assert len(shard.embeds) == 2 - len(shard.problems)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_earlier_rows_that_are_damaged_are_made_again(
    layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damage in the middle of a file whose footer is whole is met only when its rows are read."""
    keys = make_tars(tmp_path / "in", 1, 40, broken=(30,))
    out = tmp_path / "out"
    arguments = [tmp_path / "in", "--format", layout, "--out", out]
    run(demo_bundle, capsys, *arguments)
    for file in [out / "00000.parquet"] if layout == "parquet" else out.glob("*/*_00000.parquet"):
        data = bytearray(file.read_bytes())
        data[4:60] = bytes(56)
        file.write_bytes(data)
    end = run(demo_bundle, capsys, *arguments, "--retry-failed")
    assert (end["made"], end["rows"], end["errors"]) == (1, 40, 1)
    assert_whole(out, keys, broken=(30,))


def test_arrays_with_a_damaged_header_are_made_again(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_tars(tmp_path / "in", 1, 4)
    out = tmp_path / "out"
    arguments = [tmp_path / "in", "--format", "npy", "--out", out]
    run(demo_bundle, capsys, *arguments)
    file = out / "img_emb" / "img_emb_00000.npy"
    whole = file.read_bytes()
    for damage in (b"{'descr': (" + b" " * 107, b"\xff" * 118, b"{'descr': '<f2', 'shape': (4," + b"\0" * 89, b""):
        file.write_bytes(whole[:10] + damage + whole[10 + len(damage) : 1000 if damage else 9])
        assert run(demo_bundle, capsys, *arguments)["made"] == 1
        assert_whole(out, keys)


def test_a_lost_file_of_errors_is_made_again(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_tars(tmp_path / "in", 1, 4, broken=(2,))
    arguments = [tmp_path / "in", "--format", "npy", "--out", tmp_path / "out"]
    run(demo_bundle, capsys, *arguments)
    errors = tmp_path / "out" / "errors" / "errors_00000.parquet"
    errors.unlink()
    assert run(demo_bundle, capsys, *arguments)["made"] == 1
    errors.write_bytes(errors.read_bytes()[:-9])
    assert run(demo_bundle, capsys, *arguments)["made"] == 1
    assert_whole(tmp_path / "out", keys, broken=(2,))
    assert run(demo_bundle, capsys, *arguments)["there"] == 1


@pytest.mark.parametrize("on_ray", [False, True])
@pytest.mark.parametrize("broken", [False, True])
def test_shards_behind_the_last_one_of_a_list_that_became_shorter(
    on_ray: bool, broken: bool, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where they have nothing but errors, and in a job on Ray, which here needs no actor."""
    pytest.importorskip("ray" if on_ray else "pyarrow")
    files = [tmp_path / f"{i}.jpg" for i in range(3)]
    for i, file in enumerate(files):
        file.write_bytes(BROKEN if broken and i == 2 else jpeg(i))
    listing, out = tmp_path / "list.txt", tmp_path / "out"
    arguments = ["--list", listing, "--rows-per-shard", 1, "--format", "npy", "--out", out]
    listing.write_text("".join(f"{file}\n" for file in files))
    run(demo_bundle, capsys, *arguments)
    listing.write_text("".join(f"{file}\n" for file in files[:2]))
    arguments += ["--ray", "local"] if on_ray else []
    assert run(demo_bundle, capsys, *arguments, code=1)["failed"] == 1
    assert run(demo_bundle, capsys, *arguments, "--replace-changed")["there"] == 2
    assert set(read_out(out)) == {"list-00000000", "list-00000001"}


@pytest.mark.parametrize("out", ["in", "in/", "./in"])
def test_inputs_are_never_replaced(
    out: str, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A parquet file of pictures in the output folder would have the name of its own output."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"jpg": [b"x"], "caption": ["a"]}), "in/x.parquet")
    before = (tmp_path / "in/x.parquet").read_bytes()
    for source in ("in/*.parquet", "in", str(tmp_path / "in/x.parquet")):
        assert main(["embed", str(demo_bundle), source, "--out", out]) == 1
    assert (tmp_path / "in/x.parquet").read_bytes() == before


def test_a_folder_with_files_that_no_job_wrote_is_refused(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Downloaders put x.parquet beside x.tar."""
    (tmp_path / "out").mkdir()
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "out" / "x.parquet")
    before = (tmp_path / "out" / "x.parquet").read_bytes()
    (tmp_path / "x.txt").write_text("a\n")
    assert main(["embed", str(demo_bundle), "--texts", str(tmp_path / "x.txt"), "--out", str(tmp_path / "out")]) == 1
    assert "has x.parquet, which no job wrote" in capsys.readouterr().err
    assert (tmp_path / "out" / "x.parquet").read_bytes() == before
