"""Counts of rows by the embeddings that they lack: with two towers a row may have one of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import BROKEN, embed, end_of, jpeg, read_out


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Six rows: two whole, two without a readable picture, one without a caption, one without both."""
    images = [jpeg(0), None, jpeg(2), None, BROKEN, jpeg(5)]
    captions = ["words", "words", None, None, "words", ""]
    pq.write_table(pa.table({"image": images, "caption": captions}), tmp_path / "x.parquet")
    return tmp_path / "x.parquet"


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_rows_with_one_embedding_are_counted_apart(
    layout: str, pairs: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [pairs, "--format", layout, "--towers", "image,text", "--out", tmp_path / "out"]
    assert embed(demo_bundle, *arguments, "--json") == 0
    out = capsys.readouterr().out
    shard = next(line for line in map(json.loads, out.splitlines()) if line["event"] == "shard")
    for counts in (shard, end_of(out), read_out(tmp_path / "out")["x"].record):
        assert (counts["rows"], counts["errors"]) == (6, 4)
        assert (counts["missing"], counts["missing_all"]) == ({"image": 3, "text": 2}, 1)
    if layout == "parquet":
        table = pq.read_table(tmp_path / "out/x.parquet")
        for tower, missing in (("image", 3), ("text", 2)):
            rows = np.array(table.column(f"{tower}_embedding").to_pylist(), np.float32)
            assert np.count_nonzero(~rows.any(axis=1)) == missing


def test_the_summary_names_what_rows_lack(
    pairs: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert embed(demo_bundle, pairs, "--towers", "image,text", "--out", tmp_path / "both") == 0
    text = capsys.readouterr().out
    assert "2 of 6 rows embedded by both towers" in text
    assert "4 rows with an error (no image embedding: 2, no text embedding: 1, neither: 1); the reasons" in text
    assert embed(demo_bundle, pairs, "--towers", "text", "--out", tmp_path / "text") == 0
    text = capsys.readouterr().out
    assert "4 of 6 rows embedded, " in text
    assert "2 rows without an embedding; the reasons" in text


def test_a_job_that_made_nothing_counts_zero_for_each_tower(
    pairs: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [pairs, "--towers", "image,text", "--json", "--out", tmp_path / "out"]
    assert embed(demo_bundle, *arguments) == 0
    capsys.readouterr()
    assert embed(demo_bundle, *arguments) == 0
    end = end_of(capsys.readouterr().out)
    assert (end["there"], end["missing"], end["missing_all"]) == (1, {"image": 0, "text": 0}, 0)
