"""The layout ``npy`` in the hands of embedding-reader, through which autofaiss and clip-retrieval read embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from embedding_folders import Sample, write_job, write_shard

WIDTH = 24


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Twelve shards of both towers, of different lengths, with rows that could not be embedded."""
    rng = np.random.default_rng(0)
    write_job(tmp_path / "out", tmp_path, "npy", ("image", "text"), "float16", WIDTH)
    for number in range(12):
        rows = rng.standard_normal((2, 3 + number, WIDTH))
        rows /= np.linalg.norm(rows, axis=2, keepdims=True)
        samples = [
            Sample(f"{number}-{i}", None, f"caption {i}", None if i == 1 else image, text)
            for i, (image, text) in enumerate(zip(*rows, strict=True))
        ]
        write_shard(tmp_path / "out", f"{number:05d}", samples, "npy", ("image", "text"), "float16", WIDTH)
    return tmp_path / "out"


def reader(out: Path, kind: str) -> Any:
    library = pytest.importorskip("embedding_reader")
    return library.EmbeddingReader(
        str(out / kind),
        file_format="parquet_npy",
        metadata_folder=str(out / "metadata"),
        meta_columns=["key", "caption"],
    )


@pytest.mark.parametrize("kind", ["img_emb", "text_emb"])
def test_rows_and_their_metadata(out: Path, kind: str) -> None:
    embeddings = reader(out, kind)
    assert (embeddings.count, embeddings.dimension) == (sum(2 + number for number in range(12)), WIDTH)
    seen = 0
    for rows, metadata in embeddings(batch_size=10, show_progress=False):
        for row, key, caption in zip(rows, metadata["key"], metadata["caption"], strict=True):
            number, index = key.split("-")
            files = np.load(out / kind / f"{kind}_{int(number):05d}.npy")
            place = int(index) - (int(index) > 1)  # without row 1, which could not be embedded
            assert (row == files[place]).all()
            assert caption == f"caption {index}"
            seen += 1
    assert seen == embeddings.count


def test_a_shard_without_a_row_must_not_be_written(out: Path) -> None:
    """Why a job writes no array and no metadata for such a shard: the reader skips the empty array, but not its metadata."""
    write_shard(out, "00004", [Sample("4-0", None, None, None)], "npy", ("image", "text"), "float16", WIDTH)
    embeddings = reader(out, "img_emb")
    with pytest.raises(Exception):  # noqa: B017 - rows of one shard meet the metadata of another
        for rows, metadata in embeddings(batch_size=1000, show_progress=False):
            for row, key in zip(rows, metadata["key"], strict=True):
                number, index = key.split("-")
                files = np.load(out / "img_emb" / f"img_emb_{int(number):05d}.npy")
                assert (row == files[int(index) - (int(index) > 1)]).all()
