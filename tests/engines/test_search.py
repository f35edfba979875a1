"""python -m engines search: both layouts, both towers, other places of the bundle, and folders that are damaged."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from broken_libraries import break_library, run_python
from embedding_folders import Sample, drawing, write_embeddings, write_job, write_shard
from made_once import made_once, session_folder

import engines
from engines.__main__ import main
from engines.errors import InputError
from engines.process.terminal import columns
from engines.search import Index
from engines.search.index import search_files
from engines.search.shards import BLOCK, Shards
from engines.search.storage import Folder

LAYOUTS = ("parquet", "npy")


@pytest.fixture(scope="module")
def made(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder of each layout with the image tower, and one with both towers. Read only."""
    session = session_folder(tmp_path_factory)
    folders = {}
    for layout in LAYOUTS:
        for name, towers in (("", ("image",)), ("-both", ("image", "text"))):

            def make(out: Path, layout: str = layout, towers: tuple[str, ...] = towers) -> None:
                write_embeddings(out, demo_bundle, layout, towers, "float32" if len(towers) == 2 else "float16")

            folders[layout + name] = made_once(session, f"search-{layout}{name}", make) / "out"
    return folders


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def small(tmp_path: Path, layout: str) -> tuple[Path, str]:
    """A folder of random embeddings that a test may damage: three shards of 20 rows, 16 dimensions."""
    rng = np.random.default_rng(0)
    write_job(tmp_path / "out", tmp_path / "none", layout, ("image",), "float16", 16)
    for number in range(3):
        rows = rng.standard_normal((20, 16))
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        samples = [Sample(f"{number}-{i}", None, None, row) for i, row in enumerate(rows)]
        write_shard(tmp_path / "out", f"{number:05d}", samples, layout, ("image",), "float16", 16)
    return tmp_path / "out", layout


def answers(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["search", *arguments, "--json"]) == 0
    report: dict[str, Any] = json.loads(capsys.readouterr().out)
    return report


def error(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["search", *arguments]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


class TestAnswers:
    def test_a_text_and_a_picture(
        self, made: dict[str, Path], layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "query.png").write_bytes(drawing("yellow", "square"))
        report = answers(
            capsys, str(made[layout]), "--text", "a red circle", "--image", str(tmp_path / "query.png"), "--top", "3"
        )
        text, image = report["queries"]
        assert (report["model"], report["tower"], report["rows"]) == ("demo", "image", 15)
        assert text["text"] == "a red circle"
        assert text["hits"][0]["caption"] == "a red circle"
        assert image["hits"][0]["caption"] == "a yellow square"
        assert image["hits"][0]["score"] == pytest.approx(1, abs=2e-3)
        hit = text["hits"][0]
        assert (hit["key"], hit["url"], hit["row"], hit["kind"]) == ("0000", "https://example.org/0000.png", 0, "tar")
        assert len(text["hits"]) == len(image["hits"]) == 3

    def test_layouts_agree(self, made: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
        lists = [
            answers(capsys, str(made[layout]), "--text", "a blue square")["queries"][0]["hits"] for layout in LAYOUTS
        ]
        assert [(h["key"], h["score"]) for h in lists[0]] == [(h["key"], h["score"]) for h in lists[1]]
        assert len(lists[0]) == 15  # the two rows without an embedding are no hits

    def test_towers(self, made: dict[str, Path], layout: str, capsys: pytest.CaptureFixture[str]) -> None:
        out = str(made[f"{layout}-both"])
        images = answers(capsys, out, "--text", "a green triangle", "--top", "1")
        texts = answers(capsys, out, "--text", "a green triangle", "--top", "1", "--tower", "text")
        assert (images["tower"], texts["tower"]) == ("image", "text")
        assert images["queries"][0]["hits"][0]["score"] < 0.9
        best = texts["queries"][0]["hits"][0]
        assert (best["caption"], best["score"]) == ("a green triangle", pytest.approx(1, abs=1e-5))
        assert "pass --tower image" in error(capsys, str(made[layout]), "--text", "x", "--tower", "text")

    def test_an_index_in_memory(self, made: dict[str, Path], layout: str, demo_bundle: Path) -> None:
        with engines.load(demo_bundle) as clip:
            queries = clip.encode_text(["a red circle", "a blue square"])
        hits, rows = search_files(Shards(Folder(made[layout])), queries, 4)
        index = Index.load(made[layout])
        assert (index.rows, index.bytes) == (rows, rows * 64 * 2)
        assert index.search(queries, 4) == hits
        with pytest.raises(InputError, match=r"\(N, 64\)"):
            index.search(queries[:, :3], 4)
        with pytest.raises(InputError, match="pass 1 or more"):
            index.search(queries, 0)

    def test_table(self, made: dict[str, Path], layout: str, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["search", str(made[layout]), "--text", "a red circle", "--text", "white", "--top", "2"]) == 0
        out = capsys.readouterr().out
        assert out.count("score") == 2
        assert "a red circle    https://example.org/0000.png" in out
        assert "text 'white': 2 of 15 image embeddings" in out

    def test_hostile_texts_stay_on_their_line(
        self,
        small: tuple[Path, str],
        demo_bundle: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out, layout = small
        vector = np.eye(64, dtype=np.float16)[0]
        folder = out.parent / "hostile"
        write_job(folder, demo_bundle, layout, ("image",), "float16", 64)
        sample = Sample("\x1b[2Jkey\n", "https://example.org/" + "界" * 200, "line\nbreak\u202e " + "x" * 300, vector)
        write_shard(folder, "00000", [sample], layout, ("image",), "float16", 64)
        monkeypatch.setenv("COLUMNS", "80")
        assert main(["search", str(folder), "--text", "a"]) == 0
        printed = capsys.readouterr().out
        assert "\x1b" not in printed
        assert "\u202e" not in printed
        lines = printed.splitlines()
        assert len(lines) == 5
        assert r"line\nbreak\u202e xxx" in lines[3]
        assert all(columns(line) <= 80 for line in lines)

    def test_remote(self, made: dict[str, Path], layout: str, capsys: pytest.CaptureFixture[str], memory: Any) -> None:
        memory.put(str(made[layout]), "/bucket/out", recursive=True)
        here = answers(capsys, str(made[layout]), "--text", "a red circle")
        there = answers(capsys, "memory://bucket/out/", "--text", "a red circle")
        assert there["queries"] == here["queries"]
        assert "memory://bucket/else" in error(capsys, "memory://bucket/else", "--text", "x")

    def test_many_blocks(self, tmp_path: Path, layout: str) -> None:
        """Shards that are longer than a block, with rows without an embedding on both sides of its end."""
        rng = np.random.default_rng(3)
        rows = rng.standard_normal((BLOCK + 500, 8)).astype(np.float32)
        rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
        lost = {0, 5, BLOCK - 1, BLOCK, BLOCK + 300}
        samples = [Sample(str(i), None, None, None if i in lost else row) for i, row in enumerate(rows)]
        write_job(tmp_path / "out", tmp_path, layout, ("image",), "float16", 8)
        write_shard(tmp_path / "out", "00000", samples, layout, ("image",), "float16", 8, row_group=3000)
        queries = rows[[7, BLOCK + 301, BLOCK]].astype(np.float32)
        hits, count = search_files(Shards(Folder(tmp_path / "out")), queries, 1)
        assert count == len(rows) - len(lost)
        assert [answer[0].row.key for answer in hits[:2]] == ["7", str(BLOCK + 301)]
        assert hits[2][0].row.key != str(BLOCK)


@pytest.fixture
def memory() -> Iterator[Any]:
    fsspec = pytest.importorskip("fsspec")
    system = fsspec.filesystem("memory")
    yield system
    system.rm("/bucket", recursive=True)


class TestBundle:
    def test_moved(
        self,
        made: dict[str, Path],
        demo_bundle: Path,
        bundle_copy: Path,
        tmp_path: Path,
        capsys: pytest.CaptureFixture[str],
    ) -> None:
        out = tmp_path / "out"
        write_job(out, tmp_path / "gone", "parquet", ("image",), "float16", 64)
        job = json.loads((made["parquet"] / ".job" / "job.json").read_text())
        (out / ".job" / "job.json").write_text(json.dumps(job | {"bundle": str(tmp_path / "gone")}))
        (out / "00000.parquet").symlink_to(made["parquet"] / "00000.parquet")
        assert "--bundle" in error(capsys, str(out), "--text", "x")
        assert answers(capsys, str(out), "--text", "a red circle", "--bundle", str(bundle_copy))["rows"] == 8
        (bundle_copy / "manifest.json").write_bytes((bundle_copy / "manifest.json").read_bytes() + b"\n")
        assert "is not the bundle that made these embeddings" in error(
            capsys, str(out), "--text", "x", "--bundle", str(bundle_copy)
        )


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ([], "there is nothing to do"),
            (["--text", "x", "--top", "0"], "--top 0"),
            (["--html", "x.html", "--to", "faiss", "x.index"], "--text or --image"),
            (["--to", "pinecone", "x"], "faiss or lancedb"),
            (["--image", "nowhere.png"], "nowhere.png: no such file"),
        ],
    )
    def test_arguments(
        self, made: dict[str, Path], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert words in error(capsys, str(made["npy"]), *arguments)

    def test_no_folder_of_embeddings(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert "has no .job/job.json" in error(capsys, str(tmp_path), "--text", "x")
        (tmp_path / ".job").mkdir()
        (tmp_path / ".job" / "job.json").write_text('{"format": 2}')
        assert "use the release that wrote it" in error(capsys, str(tmp_path), "--text", "x")
        (tmp_path / ".job" / "job.json").write_text('{"format": 1, "bundle": 3')
        assert "is damaged" in error(capsys, str(tmp_path), "--text", "x")

    def test_no_shard_yet(self, tmp_path: Path, layout: str, capsys: pytest.CaptureFixture[str]) -> None:
        write_job(tmp_path / "out", tmp_path, layout, ("image",), "float16", 8)
        (tmp_path / "out" / ".job" / "tmp").mkdir()
        (tmp_path / "out" / ".job" / "tmp" / "x.parquet").write_bytes(b"unfinished")
        assert "no finished shard" in error(capsys, str(tmp_path / "out"), "--text", "x")

    def test_cut_off(self, small: tuple[Path, str]) -> None:
        out, layout = small
        path = out / ("00001.parquet" if layout == "parquet" else "img_emb/img_emb_00001.npy")
        path.write_bytes(path.read_bytes()[:-40])
        with pytest.raises(InputError, match=rf"{path.name} is damaged"):
            Index.load(out)

    def test_another_width(self, small: tuple[Path, str]) -> None:
        out, layout = small
        rows = np.eye(20, 15, dtype=np.float16)
        write_shard(out, "00001", [Sample("k", None, None, row) for row in rows], layout, ("image",), "float16", 15)
        with pytest.raises(InputError, match=r"00001\.\w+ is damaged or not of this job"):
            Index.load(out)

    def test_another_dtype(self, small: tuple[Path, str]) -> None:
        out, layout = small
        rows = np.eye(20, 16, dtype=np.float32)
        write_shard(out, "00002", [Sample("k", None, None, row) for row in rows], layout, ("image",), "float32", 16)
        with pytest.raises(InputError, match=r"00002\.\w+ is damaged or not of this job"):
            Index.load(out)

    def test_not_finite(self, small: tuple[Path, str]) -> None:
        out, layout = small
        rows = np.eye(20, 16)
        rows[3] = np.nan
        write_shard(out, "00002", [Sample("k", None, None, row) for row in rows], layout, ("image",), "float16", 16)
        with pytest.raises(InputError, match=r"00002\.parquet is damaged: .* not finite"):
            search_files(Shards(Folder(out)), np.eye(1, 16, dtype=np.float32), 3)

    def test_arrays_of_other_lengths(self, tmp_path: Path) -> None:
        write_job(tmp_path / "out", tmp_path, "npy", ("image",), "float16", 4)
        samples = [Sample("k", None, None, row) for row in np.eye(4)]
        write_shard(tmp_path / "out", "00000", samples, "npy", ("image",), "float16", 4)
        np.save(tmp_path / "out" / "img_emb" / "img_emb_00000.npy", np.eye(3, 4, dtype=np.float16))
        with pytest.raises(InputError, match=r"img_emb_00000\.npy .*\(3, 4\)"):
            Index.load(tmp_path / "out")
        (tmp_path / "out" / "img_emb" / "img_emb_00000.npy").unlink()
        with pytest.raises(InputError, match=r"img_emb_00000\.npy is not there"):
            Index.load(tmp_path / "out")

    @pytest.mark.parametrize("layout", ["parquet"])
    def test_a_null_number_in_an_embedding(self, small: tuple[Path, str]) -> None:
        out, _ = small
        table = parquet.read_table(out / "00000.parquet")
        broken = pa.array([[None] + [0.0] * 15] * 20, table.schema.field("embedding").type)
        parquet.write_table(table.set_column(3, table.schema.field("embedding"), broken), out / "00000.parquet")
        with pytest.raises(InputError, match=r"00000\.parquet .* null"):
            Index.load(out)


class TestWithoutLibraries:
    def test_one_line(self, made: dict[str, Path], tmp_path: Path) -> None:
        for library in ("pyarrow", "fsspec", "faiss", "lancedb"):
            break_library(tmp_path, library)
        assert run_python("-m", "engines", "search", "--help", first=tmp_path).returncode == 0
        done = run_python("-m", "engines", "search", str(made["npy"]), "--text", "x", first=tmp_path)
        assert done.returncode == 1
        assert "needs pyarrow" in done.stderr
        assert "openclip-engines[parquet]" in done.stderr
        assert done.stderr.count("\n") == 1
        done = run_python("-m", "engines", "search", "s3://bucket/out", "--text", "x", first=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "needs fsspec" in done.stderr
