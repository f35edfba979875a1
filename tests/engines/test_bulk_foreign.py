"""Files in a job's output folder that no job wrote: they are never replaced or removed, whenever they came."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import assert_nothing_left, assert_whole, embed, end_of, jpeg, make_tars, read_out

from engines.files.leases import Leases
from engines.files.output_folder import LocalFolder
from engines.files.storage import reading

DONE = {"parquet": "00001.parquet", "npy": "metadata/metadata_00001.parquet"}


@pytest.fixture
def tars(tmp_path: Path) -> dict[str, list[str]]:
    return make_tars(tmp_path / "in", 3, 4, broken=(2, 5))


def other_table(path: Path) -> None:
    pq.write_table(pa.table({"key": ["a"], "x": [1]}), path)


def no_record(path: Path) -> None:
    table = pq.ParquetFile(path).read()
    pq.write_table(table.replace_schema_metadata({}), path)


def text(path: Path) -> None:
    path.write_text("my notes\n")


@pytest.mark.parametrize("write", [other_table, no_record, text])
@pytest.mark.parametrize("file", ["00001.parquet", "metadata/metadata_00001.parquet", "errors/errors_00001.parquet"])
def test_a_file_that_no_job_wrote_is_never_replaced(
    file: str,
    write: Callable[[Path], None],
    demo_bundle: Path,
    tmp_path: Path,
    tars: dict[str, list[str]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It came into the folder later, or another program wrote the job's own file again, without the record."""
    layout = "npy" if "/" in file else "parquet"
    out = tmp_path / "out"
    arguments = [tmp_path / "in", "--format", layout, "--out", out, "--json"]
    assert embed(demo_bundle, *arguments) == 0
    write(out / file)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for more in ((), ("--retry-failed",), ("--replace-changed",)):
        capsys.readouterr()
        assert embed(demo_bundle, *arguments, *more) == 1
        end = end_of(capsys.readouterr().out)
        assert end["failed"] == 1
        assert "which no job wrote (it is " in end["problems"][0]["reason"]
        assert (out / file).read_bytes() == before[out / file]
    (out / file).unlink()
    assert embed(demo_bundle, *arguments) == 0
    assert_whole(out, tars, broken=(2, 5))


@pytest.mark.parametrize("layout", ["parquet", "npy"])
@pytest.mark.parametrize("reads", [0, 1, 2, 3])
def test_an_output_that_cannot_be_read_now_is_not_replaced(
    reads: int,
    layout: str,
    demo_bundle: Path,
    tmp_path: Path,
    tars: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The disk fails at the opening, or at one of the reads: whether the file is a job's is not known then."""
    out = tmp_path / "out"
    arguments = [tmp_path / "in", "--format", layout, "--out", out, "--json"]
    assert embed(demo_bundle, *arguments) == 0
    file = out / DONE[layout]
    other_table(file)
    before = file.read_bytes()

    class Failing(io.BytesIO):
        left = reads - 1

        def read(self, size: int | None = -1, /) -> bytes:
            Failing.left -= 1
            if Failing.left < 0:
                raise OSError(errno.EIO, "Input/output error")
            return super().read(size)

    def opening(self: LocalFolder, name: str) -> Any:
        path = out / name
        with reading(str(path)):
            if path != file:
                return path.open("rb")
            if reads == 0:
                raise PermissionError(errno.EACCES, "Permission denied")
            Failing.left = reads - 1
            return Failing(path.read_bytes())

    monkeypatch.setattr(LocalFolder, "open", opening)
    capsys.readouterr()
    assert embed(demo_bundle, *arguments) == 1
    end = end_of(capsys.readouterr().out)
    assert (end["there"], end["failed"]) == (2, 1)
    reason = end["problems"][0]["reason"]  # one read may be enough to know
    assert "cannot be" in reason or (reads > 1 and "which no job wrote" in reason)
    assert file.read_bytes() == before


@pytest.mark.parametrize("layout", ["parquet", "npy"])
@pytest.mark.parametrize("come", [other_table, Path.mkdir])  # a folder cannot be read as a file
def test_a_file_that_comes_while_its_shard_is_made_is_not_replaced(
    come: Callable[[Path], None],
    layout: str,
    demo_bundle: Path,
    tmp_path: Path,
    tars: dict[str, list[str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out"
    file = out / DONE[layout]
    holds = Leases.holds

    def coming(self: Leases, shard: str) -> bool:  # asked when the shard is made and not yet published
        if shard == "00001":
            file.parent.mkdir(exist_ok=True)
            come(file)
        return holds(self, shard)

    monkeypatch.setattr(Leases, "holds", coming)
    assert embed(demo_bundle, tmp_path / "in", "--format", layout, "--out", out, "--json") == 1
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["failed"]) == (2, 1)
    assert file.is_dir() or pq.read_table(file).column_names == ["key", "x"]
    assert_nothing_left(out)


def test_arrays_without_metadata_are_of_no_job(
    demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "out/img_emb/img_emb_00000.npy"
    mine.parent.mkdir(parents=True)
    np.save(mine, np.zeros((4, 8), np.float16))
    before = mine.read_bytes()
    assert embed(demo_bundle, tmp_path / "in", "--format", "npy", "--out", tmp_path / "out") == 1
    assert "out has img_emb/img_emb_00000.npy, which no job wrote (it has no metadata)" in capsys.readouterr().err
    assert mine.read_bytes() == before


def test_a_file_of_errors_beside_a_shard_without_errors(demo_bundle: Path, tmp_path: Path) -> None:
    """Making the shard again would remove it."""
    make_tars(tmp_path / "in", 1, 2)
    arguments = [tmp_path / "in", "--format", "npy", "--out", tmp_path / "out", "--replace-changed"]
    assert embed(demo_bundle, *arguments) == 0
    mine = tmp_path / "out" / "errors" / "errors_00000.parquet"
    mine.parent.mkdir(exist_ok=True)
    other_table(mine)
    make_tars(tmp_path / "in", 1, 3)
    assert embed(demo_bundle, *arguments) == 1
    assert pq.read_table(mine).column_names == ["key", "x"]


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_tar_with_the_name_of_a_part_of_a_folder_stays(layout: str, demo_bundle: Path, tmp_path: Path) -> None:
    photos, tar = tmp_path / "photos", tmp_path / "photos-00000005.tar"
    photos.mkdir()
    (photos / "1.jpg").write_bytes(jpeg(1))
    make_tars(tmp_path / "in", 1, 2)
    (tmp_path / "in/00000.tar").rename(tar)
    arguments = ["--format", layout, "--out", tmp_path / "out", "--replace-changed"]
    for inputs in ([photos, tar], [photos]):
        assert embed(demo_bundle, *inputs, *arguments) == 0
        assert set(read_out(tmp_path / "out")) == {"photos-00000000", "photos-00000005"}


def test_a_file_that_no_job_wrote_is_not_removed_behind_a_shorter_list(demo_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("one\n")
    arguments = ["--texts", tmp_path / "list.txt", "--out", tmp_path / "out", "--replace-changed"]
    assert embed(demo_bundle, *arguments) == 0
    mine = tmp_path / "out" / "list-00000007.parquet"
    other_table(mine)
    assert embed(demo_bundle, *arguments) == 1
    assert mine.exists()
