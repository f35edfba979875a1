"""Inputs and outputs in stores that fsspec opens, and what jobs leave there."""

from __future__ import annotations

import functools
import gzip
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import assert_same_embeddings, assert_whole, embed, end_of, jpeg, make_tars, read_out

from engines.errors import EngineError, InputError
from engines.files import storage
from engines.files.output_folder import LocalFolder, output_folder
from engines.process.identity import process_name

fsspec = pytest.importorskip("fsspec")
memory = pytest.importorskip("fsspec.implementations.memory")
BROKEN = (2, 5)


class Drive(memory.MemoryFileSystem):  # type: ignore[misc,name-defined]
    """A store in memory that shows files before they are complete, as a network drive does."""

    protocol = ("drive",)
    store: dict[str, object] = {}  # noqa: RUF012
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("drive://", "memory://")))


@pytest.fixture(params=["memory", "drive", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a folder, by protocol."""
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    fsspec.register_implementation("drive", Drive, clobber=True)
    yield f"{request.param}://{tmp_path.name}"
    fsspec.filesystem(request.param).store.clear()


def up(folder: Path, url: str) -> None:
    system, place = fsspec.core.url_to_fs(url)
    system.put(str(folder), place, recursive=True)


def down(url: str, folder: Path) -> Path:
    system, place = fsspec.core.url_to_fs(url)
    for name in system.find(place):
        target = folder / name[len(place) :].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(system.cat_file(name))
    return folder


def temporary_folders() -> set[str]:
    """The local folders of this process' unfinished files."""
    return {name for name in os.listdir(tempfile.gettempdir()) if name.startswith(f"openclip-engines-{process_name()}")}


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_job_from_a_store_to_a_store(
    layout: str, store: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_tars(tmp_path / "in", 3, 4, BROKEN)
    up(tmp_path / "in", f"{store}/in")
    out = f"{store}/out"
    arguments = ["--format", layout, "--json"]
    assert embed(demo_bundle, f"{store}/in/{{00000..00001}}.tar", *arguments, "--out", out) == 0
    assert end_of(capsys.readouterr().out)["made"] == 2
    assert embed(demo_bundle, f"{store}/in/*.tar", *arguments, "--out", out) == 0
    assert (end_of(capsys.readouterr().out))["there"] == 2
    shards = assert_whole(down(out, tmp_path / "down"), keys, BROKEN)
    assert embed(demo_bundle, tmp_path / "in", *arguments, "--out", f"{tmp_path}/local/") == 0
    assert_same_embeddings(shards, read_out(tmp_path / "local"))
    assert temporary_folders() == set()


def test_damaged_and_changed_shards_in_a_store(
    store: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_tars(tmp_path / "in", 3, 4, BROKEN)
    up(tmp_path / "in", f"{store}/in")
    arguments = [f"{store}/in/{{00000..00002}}.tar", "--json", "--out", f"{store}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    system, place = fsspec.core.url_to_fs(store)
    name = f"{place}/out/00001.parquet"
    system.pipe_file(name, system.cat_file(name)[:700])
    system.rm_file(f"{place}/in/00002.tar")
    make_tars(tmp_path / "in", 1, 5, BROKEN)
    system.put_file(str(tmp_path / "in/00000.tar"), f"{place}/in/00000.tar")
    capsys.readouterr()
    assert embed(demo_bundle, *arguments, "--replace-changed") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["there"]) == (2, 1)
    assert {again["shard"] for again in end["again"]} == {"00000", "00001"}
    assert_whole(down(f"{store}/out", tmp_path / "down"), keys | {"00000": [f"{i:06d}" for i in range(5)]}, BROKEN)


def test_parquet_files_and_cut_tars_in_a_store(
    store: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    keys = make_tars(folder, 1, 4)
    data = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").write_bytes(data[: data.index(jpeg(3)) + 9])
    table = {"key": ["000000", "000001"], "image": [jpeg(0), jpeg(1)], "caption": ["caption 0", "caption 1"]}
    pq.write_table(pa.table(table), folder / "x.parquet")
    up(folder, f"{store}/in")
    urls = [f"{store}/in/00000.tar", f"{store}/in/x.parquet"]
    assert embed(demo_bundle, *urls, "--json", "--out", f"{store}/out/") == 0
    assert len(end_of(capsys.readouterr().out)["cut"]) == 1
    assert_whole(down(f"{store}/out", tmp_path / "down"), keys | {"x": ["000000", "000001"]}, broken=(3,))


def test_jobs_with_other_arguments_are_refused(
    store: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_tars(tmp_path / "in", 1, 1)
    assert embed(demo_bundle, tmp_path / "in", "--out", f"{store}/out") == 0
    assert embed(demo_bundle, tmp_path / "in", "--dtype", "float32", "--out", f"{store}/out") == 1
    assert "dtype float16 there, float32 here" in capsys.readouterr().err


def test_stores_that_cannot_be_reached(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_tars(tmp_path / "in", 1, 1)
    for arguments, message in {
        (f"{tmp_path}/in", "nosuch://x/out"): "nosuch://x/out cannot be opened",
        ("nosuch://x/a.tar", f"{tmp_path}/out/"): "nosuch://x/a.tar cannot be opened",
        ("memory://none/*.tar", f"{tmp_path}/out/"): "memory://none/*.tar matches no file",
        ("memory://none/a.jpg", f"{tmp_path}/out/"): "neither a .tar nor a .parquet",
    }.items():
        code = embed(demo_bundle, arguments[0], "--out", arguments[1])
        output = capsys.readouterr()
        assert code == 1
        assert message in output.err + output.out
        assert "Traceback" not in output.err


def test_a_url_of_a_file_is_a_local_folder(tmp_path: Path) -> None:
    for protocol in ("file", "local"):
        assert isinstance(output_folder(f"{protocol}://{tmp_path}/a b"), LocalFolder)
    output_folder(f"file://{tmp_path}/a b").write("x", b"1")  # which makes it
    assert (tmp_path / "a b/x").read_bytes() == b"1"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: pass a folder"):
        output_folder(f"file://{tmp_path}/file")


def test_what_a_killed_job_left_of_a_store_is_removed(store: str, tmp_path: Path) -> None:
    if store.startswith("file"):
        return
    code = (
        "import os, signal; from engines.files.output_folder import output_folder\n"
        "folder = output_folder('memory://x'); file = folder.unfinished(); file.write_bytes(b'rows')\n"
        "print(file, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = Path(killed.stdout.strip())
    assert left.exists()
    system, place = fsspec.core.url_to_fs(store)
    system.pipe_file(f"{place}/out/.job/tmp/{left.name}", b"rows")
    system.pipe_file(f"{place}/out/.job/tmp/other-machine-0.1.2 0123", b"rows")
    folder = output_folder(f"{store}/out")
    file = folder.unfinished()
    file.write_bytes(b"rows")
    folder.tidy()
    assert not left.exists()
    assert not file.exists()
    if store.startswith("drive"):  # other stores have no unfinished objects
        assert folder.hidden(".job/tmp") == {".job/tmp/other-machine-0.1.2 0123"}


def test_an_upload_that_fails_shows_no_file(store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if store.startswith("file"):
        return
    folder = output_folder(f"{store}/out")
    system, _ = fsspec.core.url_to_fs(store)

    def put(source: str, target: str) -> None:
        raise OSError("the connection was lost")

    monkeypatch.setattr(type(system), "put_file", staticmethod(put))
    file = folder.unfinished()
    file.write_bytes(b"rows")
    with pytest.raises(EngineError, match=r"cannot write .*: .*the connection was lost"):
        folder.publish(file, "a.parquet")
    assert folder.names() == set()
    assert not file.exists()
    folder.tidy()


class Away(Exception):
    """An error as clients of stores have them, which is no OSError."""


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.parquet"])
def test_a_network_that_fails_is_no_damage_of_a_file(
    name: str,
    store: str,
    demo_bundle: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if store.startswith("file"):
        return
    folder = tmp_path / "in"
    keys = make_tars(folder, 1, 40)["00000"]
    data = (folder / "00000.tar").read_bytes()
    (folder / "00000.tar").unlink()
    captions = [f"caption {i}" for i in range(40)]
    table = pa.table({"key": keys, "image": [jpeg(i) for i in range(40)], "caption": captions})
    if name == "a.parquet":
        pq.write_table(table, folder / name)
    else:
        (folder / name).write_bytes(data if name == "a.tar" else gzip.compress(data, 0))
    up(folder, f"{store}/in")
    arguments = [f"{store}/in/{name}", "--json", "--out", f"{store}/out"]
    for error in (Away("no credentials"), OSError("reset"), ConnectionResetError(104, "reset")):
        with monkeypatch.context() as patch:
            patch.setattr(storage, "_StoreFile", functools.partial(FailingFile, error))
            assert embed(demo_bundle, *arguments) == 1
        end = end_of(capsys.readouterr().out)
        assert (end["made"], end["failed"], end["cut"]) == (0, 1, [])
        assert end["problems"][0]["reason"].startswith(f"cannot read {store}/in/{name}: ")
    assert embed(demo_bundle, *arguments) == 0
    assert_whole(down(f"{store}/out", tmp_path / "down"), {"a": keys})


class FailingFile(storage._StoreFile):
    """A file of a store that fails after its first kilobytes, a parquet file at once."""

    def __init__(self, error: Exception, url: str, file: Any) -> None:
        super().__init__(url, file)
        self._error = error

    def read(self, size: int = -1, /) -> bytes:
        with storage.reading(self._url):
            if self._file.tell() > 9000 or self._url.endswith(".parquet"):
                raise self._error
        return super().read(min(size, 9216))


def test_a_store_that_is_away_is_one_line(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_tars(tmp_path / "in", 1, 1)

    def away(*arguments: object, **options: object) -> None:
        raise Away("no credentials\nat all")

    for name in ("cat_file", "pipe_file", "find", "put_file", "glob", "makedirs"):
        with monkeypatch.context() as patch:
            patch.setattr(memory.MemoryFileSystem, name, away)
            source = "memory://x/*.tar" if name == "glob" else str(tmp_path / "in")
            assert embed(demo_bundle, source, "--out", f"memory://{tmp_path.name}{name}") == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert error.startswith("error: cannot ")
        assert "no credentials" in error
    fsspec.filesystem("memory").store.clear()
