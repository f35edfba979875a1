"""Full disks: one sentence, no damaged file, nothing left over, and the same command goes on when there is space."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from made_shards import assert_nothing_left, assert_whole, embed, make_tars, read_out

from engines.errors import EngineError
from engines.files.output_folder import LocalFolder, output_folder

BROKEN = (3, 9)


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """A limit of the size of files, in bytes: writing past it fails, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def small_disk(place: Path, pages: int) -> Iterator[None]:
    """A file system of some pages of 4096 bytes."""
    place.mkdir()
    options = f"size={pages * 4096}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(place)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", str(place)], check=True)


def assert_full(capsys: pytest.CaptureFixture[str], out: Path) -> None:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: no space left while writing {out}: free some")
    assert_nothing_left(out)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
@pytest.mark.parametrize("size", [0, 100, 600, 1000])
def test_a_job_that_may_not_write_long_files(
    size: int, layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, out = make_tars(tmp_path / "in", 2, 6, BROKEN), tmp_path / "out"
    arguments = [tmp_path / "in", "--format", layout, "--out", f"{out}/"]
    with file_limit(size):
        assert embed(demo_bundle, *arguments) == 1
    assert_full(capsys, out)
    assert read_out(out) == {}
    assert embed(demo_bundle, *arguments) == 0
    assert_whole(out, keys, BROKEN)


@pytest.mark.parametrize("layout", ["parquet", "npy"])
@pytest.mark.parametrize("pages", [1, 5, 8, 9, 11])
def test_a_disk_that_fills_up(
    pages: int, layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, disk = make_tars(tmp_path / "in", 6, 6, BROKEN), tmp_path / "disk"
    out = disk / "out"
    arguments = [tmp_path / "in", "--format", layout, "--out", f"{out}/"]
    with small_disk(disk, pages):
        assert embed(demo_bundle, *arguments) == 1
        assert_full(capsys, out)
        shards = read_out(out)
        assert len(shards) < len(keys)
        assert_whole(out, {name: keys[name] for name in shards}, BROKEN)
        subprocess.run(["mount", "-o", "remount,size=1m", str(disk)], check=True)
        assert embed(demo_bundle, *arguments) == 0
        assert_whole(out, keys, BROKEN)


def test_a_folder_that_cannot_be_made(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tars(tmp_path / "in", 1, 1)
    (tmp_path / "file").write_text("")
    for place in ("file", "file/out", "/proc/out"):
        assert embed(demo_bundle, tmp_path / "in", "--format", "npy", "--out", f"{tmp_path / place}/") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert str(place) in error


def test_small_files_on_a_full_disk(tmp_path: Path) -> None:
    folder = output_folder(str(tmp_path / "out"))
    with file_limit(10):
        for write in (folder.write, folder.create):
            with pytest.raises(EngineError, match="no space left"):
                write(".job/x.json", bytes(100))
    assert folder.read(".job/x.json") is None
    assert_nothing_left(tmp_path / "out")


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", link)
    folder = output_folder(str(tmp_path / "out"))
    assert isinstance(folder, LocalFolder)
    with file_limit(10), pytest.raises(EngineError):
        folder.create("x.json", bytes(100))
    assert folder.read("x.json") is None
    assert folder.create("x.json", b"one")
    assert not folder.create("x.json", b"two")
    assert folder.read("x.json") == b"one"
    assert_nothing_left(tmp_path / "out")
