"""--to faiss and --to lancedb: what these libraries find is what the search of this project finds."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from broken_libraries import break_library, run_python
from embedding_folders import Sample, write_job, write_shard

from engines.__main__ import main
from engines.errors import InputError
from engines.search.hand_over import TABLE, hand_over
from engines.search.index import search_files
from engines.search.shards import Shards
from engines.search.sheet import Query, write_sheet
from engines.search.storage import Folder

faiss = pytest.importorskip("faiss")
WIDTH = 32


@pytest.fixture(params=["parquet", "npy"])
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["float16", "float32"])
def shards(request: pytest.FixtureRequest, layout: str, tmp_path: Path) -> Shards:
    """Three shards of 50 rows, one in seven without an embedding."""
    rng = np.random.default_rng(0)
    write_job(tmp_path / "out", tmp_path, layout, ("image",), request.param, WIDTH)
    for number in range(3):
        rows = rng.standard_normal((50, WIDTH))
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(request.param)
        samples = [
            Sample(f"{number}-{i}", f"https://example.org/{i}", None, row if i % 7 else None)
            for i, row in enumerate(rows)
        ]
        write_shard(tmp_path / "out", f"{number:05d}", samples, layout, ("image",), request.param, WIDTH)
    return Shards(Folder(tmp_path / "out"))


@pytest.fixture
def queries() -> np.ndarray[Any, np.dtype[np.float32]]:
    rows = np.random.default_rng(1).standard_normal((4, WIDTH)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def test_faiss(shards: Shards, queries: np.ndarray[Any, np.dtype[np.float32]], tmp_path: Path) -> None:
    done = hand_over(shards, "faiss", str(tmp_path / "x.index"))
    hits, rows = search_files(shards, queries, 5)
    assert done.rows == rows == 3 * 42
    assert done.files == [str(tmp_path / "x.index"), str(tmp_path / "x.index.ids.parquet")]
    index = faiss.read_index(done.files[0])
    keys = parquet.read_table(done.files[1]).column("key").to_pylist()
    scores, ids = index.search(queries, 5)
    assert [[keys[i] for i in row] for row in ids] == [[hit.row.key for hit in found] for found in hits]
    assert scores == pytest.approx(np.array([[hit.score for hit in found] for found in hits]), abs=1e-5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x.index", "x.index.ids.parquet"]
    with pytest.raises(InputError, match="is there already"):
        hand_over(shards, "faiss", str(tmp_path / "x.index"))


def test_lancedb(shards: Shards, queries: np.ndarray[Any, np.dtype[np.float32]], tmp_path: Path) -> None:
    lancedb = pytest.importorskip("lancedb")
    done = hand_over(shards, "lancedb", str(tmp_path / "db"))
    hits, rows = search_files(shards, queries, 5)
    table = lancedb.connect(str(tmp_path / "db")).open_table(TABLE)
    assert done.rows == rows == table.count_rows()
    for query, found in zip(queries, hits, strict=True):
        answer = table.search(query).distance_type("dot").limit(5).to_list()
        assert [item["key"] for item in answer] == [hit.row.key for hit in found]
        assert answer[0]["url"] == found[0].row.url
    with pytest.raises(InputError, match=rf"LanceDB's table '{TABLE}'"):
        hand_over(shards, "lancedb", str(tmp_path / "db"))


@pytest.mark.parametrize("library", ["faiss", "lancedb"])
def test_a_damaged_shard_is_named(shards: Shards, library: str, tmp_path: Path) -> None:
    pytest.importorskip(library)
    path = shards.folder.path(shards.names[1])
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[:-30])
    with pytest.raises(InputError, match=rf"{Path(path).name} is damaged"):
        hand_over(shards, library, str(tmp_path / "db"))
    assert not (tmp_path / "db").is_file()
    Path(path).write_bytes(whole)  # and once it is mended, the same command succeeds
    assert hand_over(shards, library, str(tmp_path / "db")).rows == 126


@pytest.mark.parametrize("library", ["faiss", "lancedb"])
def test_a_library_that_cannot_be_imported(shards: Shards, library: str, tmp_path: Path) -> None:
    break_library(tmp_path / "first", library)
    words = ("-m", "engines", "search", shards.folder.place, "--to", library, str(tmp_path / "db"))
    done = run_python(*words, first=tmp_path / "first")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert f"needs {library}" in done.stderr
    assert f"pip install 'openclip-engines[{library}]'" in done.stderr
    assert not (tmp_path / "db").exists()


def test_a_place_that_cannot_be_written(shards: Shards, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no folder .*no folder; make it"):
        hand_over(shards, "faiss", str(tmp_path / "no folder" / "x.index"))


@pytest.mark.parametrize(
    ("options", "reason"), [("ro", r"\(Read-only file system\)"), ("size=8192", r"No space left on device")]
)
def test_disks_that_cannot_be_written(options: str, reason: str, shards: Shards, tmp_path: Path) -> None:
    """Read-only and full: one sentence with the reason, and nothing is left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(disk)], check=False).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        with pytest.raises(InputError, match=rf"cannot write \S+/disk/x\.index \(?.*{reason}.*pass another file"):
            hand_over(shards, "faiss", str(disk / "x.index"))
        with pytest.raises(InputError, match=rf"cannot write .*{reason}.* pass another --html"):
            write_sheet(disk / "x.html", [Query("text", "x" * 10_000, [])], "about")
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_the_command_needs_no_bundle(shards: Shards, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["search", shards.folder.place, "--to", "faiss", str(tmp_path / "x.index"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["to"]["rows"] == 126
