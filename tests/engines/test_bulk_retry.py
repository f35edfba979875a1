"""Rows that failed are tried again, and only those; engines that fail for single rows; both in bulk jobs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import pytest
from made_pictures import encoded

from engines.__main__ import main
from engines.bulk.encode import RowEncoder
from engines.bulk.npy_layout import NpyLayout
from engines.embedder import Embedder
from engines.errors import EngineError, ImageError
from engines.files.output_folder import output_folder


@pytest.fixture
def tar(tmp_path: Path) -> Path:
    """Twenty samples with captions."""
    path = tmp_path / "rows.tar"
    with tarfile.open(path, "w") as tar:
        for i in range(20):
            for suffix, data in (("png", encoded(i, "PNG")), ("txt", f"a picture {i}".encode())):
                member = tarfile.TarInfo(f"{i:03d}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


class Failing:
    """Makes some images unreadable, by their number in the job, and counts all of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, bad: Iterable[int]) -> None:
        self.bad, self.seen, real = set(bad), 0, Embedder.preprocess_ahead

        def ahead(clip: Embedder, images: Any, batch: int) -> Iterator[tuple[int, list[Any]]]:
            for start, items in real(clip, images, batch):
                self.seen += len(items)
                yield start, [ImageError("not now") if start + i in self.bad else item for i, item in enumerate(items)]

        monkeypatch.setattr(Embedder, "preprocess_ahead", ahead)


def rows_of(out: Path, layout: str) -> dict[str, list[Any]]:
    if layout == "parquet":
        return {
            row["key"]: [row["image_embedding"], row["text_embedding"]]
            for row in parquet.read_table(out / "rows.parquet").to_pylist()
        }
    keys = parquet.read_table(out / "metadata" / "metadata_rows.parquet")["key"].to_pylist()
    arrays = [np.load(out / f"{name}_emb" / f"{name}_emb_rows.npy") for name in ("img", "text")]
    return {key: [array[i].tolist() for array in arrays] for i, key in enumerate(keys)}


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_only_rows_that_failed_are_made_again(
    layout: str, demo_bundle: Path, tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def embed(out: str, *options: str) -> int:
        return main(
            [
                "embed",
                str(demo_bundle),
                str(tar),
                "--out",
                str(tmp_path / out),
                "--towers",
                "image,text",
                "--format",
                layout,
                *options,
            ]
        )

    assert embed("clean/") == 0
    failing = Failing(monkeypatch, {0, 7, 19})
    assert embed("out/") == 0
    assert failing.seen == 20
    failing.bad, failing.seen = {1}, 0  # the second of the three fails again
    assert embed("out/") == 0
    assert failing.seen == 0, "a shard with errors is whole, as long as nobody asks for another try"
    assert embed("out/", "--retry-failed") == 0
    assert failing.seen == 3
    failing.bad, failing.seen = set(), 0
    assert embed("out/", "--retry-failed") == 0
    assert failing.seen == 1
    assert rows_of(tmp_path / "out", layout) == rows_of(tmp_path / "clean", layout)
    assert not (tmp_path / "out" / "errors" / "errors_rows.parquet").exists()
    assert embed("out/", "--retry-failed") == 0
    assert failing.seen == 1


def test_a_shard_without_any_embedding(
    demo_bundle: Path, tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In clip-retrieval's layout it has neither arrays nor metadata, and still is whole."""
    failing = Failing(monkeypatch, range(20))
    arguments = ["embed", str(demo_bundle), str(tar), "--out", str(tmp_path / "out"), "--format", "npy"]
    assert main(arguments) == 0
    files = {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {"job.json", "errors_rows.parquet"}
    failing.seen = 0
    assert main(arguments) == 0
    assert failing.seen == 0
    failing.bad = set()
    assert main([*arguments, "--retry-failed"]) == 0
    assert np.load(tmp_path / "out" / "img_emb" / "img_emb_rows.npy").shape[0] == 20
    assert not (tmp_path / "out" / "errors" / "errors_rows.parquet").exists()
    failing.bad = set(range(20))
    (tmp_path / "out" / "metadata" / "metadata_rows.parquet").unlink()
    assert main(arguments) == 0
    files = {file.name for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert files == {"job.json", "errors_rows.parquet"}


def test_earlier_rows_with_equal_keys_are_not_mixed_up(tmp_path: Path) -> None:
    """Of two rows with one key, one failed: which one is not known, so both are made again, and all after them."""
    pa = pytest.importorskip("pyarrow")
    folder = output_folder(str(tmp_path))
    layout = NpyLayout(("image",), "float32", 2)
    (tmp_path / "metadata").mkdir()
    (tmp_path / "errors").mkdir()
    (tmp_path / "img_emb").mkdir()
    parquet.write_table(pa.table({"key": ["a", "b", "c"]}), tmp_path / "metadata" / "metadata_x.parquet")
    parquet.write_table(pa.table({"key": ["b"]}), tmp_path / "errors" / "errors_x.parquet")
    np.save(tmp_path / "img_emb" / "img_emb_x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    rows = layout.read_rows(folder, "x")
    first = rows.take("a")
    assert first is not None
    np.testing.assert_array_equal(first["image"], [0, 1])
    assert [rows.take(key) for key in ("b", "b", "c")] == [None, None, None]


class Engine:
    """Encodes rows of numbers; negative ones make it fail, and so does everything once it is broken."""

    def __init__(self) -> None:
        self.broken = False
        self.calls = 0

    def encode_text(self, rows: list[Any]) -> np.ndarray[Any, np.dtype[np.float32]]:
        self.calls += 1
        numbers = [0 if isinstance(row, str) else row for row in rows]
        if self.broken or min(numbers) < 0:
            raise EngineError("the engine gave NaN")
        return np.array([[number] for number in numbers], np.float32)


class TestRowsThatMakeTheEngineFail:
    def test_the_others_are_embedded(self) -> None:
        encoder = RowEncoder(Engine())  # type: ignore[arg-type]
        found = encoder.texts([1, -1, 3])  # type: ignore[list-item]
        assert [item if isinstance(item, str) else item.tolist() for item in found] == [[1], "the engine gave NaN", [3]]

    def test_a_batch_of_bad_rows_only(self) -> None:
        """The engine has worked before, and still works: the rows are to blame."""
        encoder = RowEncoder(Engine())  # type: ignore[arg-type]
        encoder.texts([5])  # type: ignore[list-item]
        assert encoder.texts([-1]) == ["the engine gave NaN"]  # type: ignore[list-item]

    def test_bad_rows_before_any_good_one(self) -> None:
        """As in a job that tries only rows again that failed: a neutral row shows that the engine works."""
        bad = np.full((2, 2, 3), 255, np.uint8)

        class Images:
            def encode_image(self, pixels: Any) -> Any:
                if pixels.max() == 255:
                    raise EngineError("the engine gave NaN")
                return np.ones((len(pixels), 1), np.float32)

        assert RowEncoder(Images()).images([bad]) == ["the engine gave NaN"]  # type: ignore[arg-type]
        assert RowEncoder(Engine()).texts([-1, -2]) == ["the engine gave NaN"] * 2  # type: ignore[arg-type, list-item]

    def test_an_engine_that_never_worked(self) -> None:
        engine = Engine()
        engine.broken = True
        with pytest.raises(EngineError, match="gave NaN"):
            RowEncoder(engine).texts([-1, -2])  # type: ignore[arg-type, list-item]

    def test_an_engine_that_breaks(self) -> None:
        engine = Engine()
        encoder = RowEncoder(engine)  # type: ignore[arg-type]
        encoder.texts([1, 2])  # type: ignore[list-item]
        engine.broken = True
        with pytest.raises(EngineError, match="gave NaN"):
            encoder.texts([3, 4])  # type: ignore[list-item]


def test_a_broken_engine_ends_the_job_and_leaves_nothing(
    demo_bundle: Path, tar: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(clip: Embedder, images: Any) -> Any:
        raise EngineError("the GPU fell off the bus")

    monkeypatch.setattr(Embedder, "encode_image", fail)
    assert main(["embed", str(demo_bundle), str(tar), "--out", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err == "error: the GPU fell off the bus\n"
    left = [file.name for file in (tmp_path / "out").rglob("*") if file.is_file()]
    assert left == ["job.json"]
