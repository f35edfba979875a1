"""Tars and parquet files of tiny pictures, jobs that embed them, and the rows that the jobs wrote."""

from __future__ import annotations

import functools
import io
import json
import sys
import tarfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from engines.__main__ import main

BROKEN = b"\xff\xd8\xff no picture"


@functools.cache
def jpeg(index: int) -> bytes:
    """A picture of its own for each index, of 500 to 700 bytes."""
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((24, 20), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def member(name: str, data: bytes, kind: bytes = tarfile.REGTYPE, link: str = "") -> tuple[tarfile.TarInfo, bytes]:
    """One file of a tar."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.linkname = len(data), kind, link
    return info, data


def sample(key: str, index: int, broken: bool = False) -> list[tuple[tarfile.TarInfo, bytes]]:
    """The files of one whole sample."""
    return [
        member(f"{key}.jpg", BROKEN if broken else jpeg(index)),
        member(f"{key}.txt", f"caption {index}".encode()),
        member(f"{key}.json", json.dumps({"url": f"http://x/{index}"}).encode()),
    ]


def tar_bytes(
    members: Iterable[tuple[tarfile.TarInfo, bytes]], mode: str = "w", style: int = tarfile.PAX_FORMAT
) -> bytes:
    """A whole tar."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode, format=style) as tar:  # type: ignore[call-overload]
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def make_tars(folder: Path, shards: int, rows: int, broken: Sequence[int] = ()) -> dict[str, list[str]]:
    """Tars ``00000.tar`` … with rows of running numbers; returns the keys of each shard.

    Args:
        folder: where they are written.
        shards: number of tars.
        rows: number of rows of each.
        broken: running numbers of rows whose picture is unreadable.
    """
    folder.mkdir(parents=True, exist_ok=True)
    keys: dict[str, list[str]] = {}
    for shard in range(shards):
        numbers = range(shard * rows, (shard + 1) * rows)
        files = [file for i in numbers for file in sample(f"{i:06d}", i, i in broken)]
        (folder / f"{shard:05d}.tar").write_bytes(tar_bytes(files))
        keys[f"{shard:05d}"] = [f"{i:06d}" for i in numbers]
    return keys


def embed(bundle: Path, *arguments: object) -> int:
    """The command ``embed`` in this process; returns its exit code."""
    return main(["embed", str(bundle), *map(str, arguments)])


def command(bundle: Path, *arguments: object) -> list[str]:
    """The command ``embed`` as a process of its own."""
    return [sys.executable, "-m", "engines", "embed", str(bundle), *map(str, arguments)]


@dataclass
class Shard:
    """The rows of an output shard.

    Attributes:
        keys: keys of the rows with an embedding, in their order; with them `captions`, `urls` and `embeds` (rows, D).
        problems: key and reason of each row without one.
        record: the record in the footer.
    """

    keys: list[str]
    captions: list[str | None]
    urls: list[str | None]
    embeds: np.ndarray
    problems: list[tuple[str, str]]
    record: dict[str, Any]

    @property
    def all_keys(self) -> list[str]:
        """The keys of all rows, sorted."""
        return sorted([*self.keys, *(key for key, _ in self.problems)])


def record_of(table: pa.Table) -> dict[str, Any]:
    record: dict[str, Any] = json.loads(table.schema.metadata[b"openclip_engines"])
    return record


def read_out(out: Path) -> dict[str, Shard]:
    """All shards of an output folder, in either layout. Each file is read from its start to its end."""
    if (out / "metadata").exists() or (out / "errors").exists():
        files = [path for folder in ("metadata", "errors") for path in (out / folder).glob("*.parquet")]
        names = sorted({path.stem.removeprefix(f"{path.parent.name}_") for path in files})
        return {name: _npy_shard(out, name) for name in names}
    found = sorted(path for path in out.rglob("*.parquet") if ".job" not in path.parts)
    return {str(path.relative_to(out).with_suffix("")): parquet_shard(path) for path in found}


def parquet_shard(path: Path) -> Shard:
    """The rows of a parquet file with one column of embeddings."""
    table = pq.ParquetFile(path).read()
    rows = table.to_pylist()
    column = next(name for name in table.column_names if name.endswith("embedding"))
    good = [row for row in rows if row["error"] is None]
    assert all(row[column] is not None for row in good)
    return Shard(
        [row["key"] for row in good],
        [row["caption"] for row in good],
        [row["url"] for row in good],
        np.array([row[column] for row in good], np.float32),
        [(row["key"], row["error"]) for row in rows if row["error"] is not None],
        record_of(table),
    )


def _npy_shard(out: Path, name: str) -> Shard:
    metadata, errors = (out / folder / f"{folder}_{name}.parquet" for folder in ("metadata", "errors"))
    if not metadata.exists():  # no row has an embedding
        table = pq.ParquetFile(errors).read()
        failed, record = [(row["key"], row["error"]) for row in table.to_pylist()], record_of(table)
        assert record["errors"] == record["rows"] == len(failed)
        assert not list(out.glob(f"*_emb/*_emb_{name}.npy"))
        return Shard([], [], [], np.zeros((0, 0), np.float32), failed, record)
    table = pq.ParquetFile(metadata).read()
    rows, record = table.to_pylist(), record_of(table)
    arrays = [np.load(path) for path in out.glob(f"*_emb/*_emb_{name}.npy")]
    assert arrays
    assert all(len(array) == len(rows) for array in arrays)
    failed = pq.ParquetFile(errors).read().to_pylist() if errors.exists() else []
    assert len(failed) == record["errors"]
    columns = [[row[column] for row in rows] for column in ("key", "caption", "url")]
    return Shard(*columns, arrays[0].astype(np.float32), [(row["key"], row["error"]) for row in failed], record)


def assert_whole(out: Path, keys: dict[str, list[str]], broken: Sequence[int] = ()) -> dict[str, Shard]:
    """Check that the rows are those of `make_tars`, each exactly once, and that nothing else is left in the folder."""
    shards = read_out(out)
    assert set(shards) == set(keys)
    lost = {f"{i:06d}" for i in broken}
    for name, shard in shards.items():
        assert shard.all_keys == sorted(keys[name])
        assert shard.keys == [key for key in keys[name] if key not in lost]
        assert shard.captions == [f"caption {int(key)}" for key in shard.keys]
        assert np.isfinite(shard.embeds).all()
        assert shard.record["rows"] == len(keys[name])
    assert_nothing_left(out)
    return shards


def assert_nothing_left(out: Path) -> None:
    """Check that a folder has neither unfinished files nor leases."""
    left = [str(path) for place in ("tmp", "locks") for path in (out / ".job" / place).glob("*")]
    assert left == []


def assert_same_embeddings(some: dict[str, Shard], others: dict[str, Shard]) -> None:
    """Check that two folders have the same rows and, but for rounding, the same embeddings."""
    assert set(some) == set(others)
    for name, shard in some.items():
        assert shard.keys == others[name].keys
        if len(shard.keys):
            assert (np.sum(shard.embeds * others[name].embeds, axis=1) > 0.999).all()


def end_of(text: str) -> dict[str, Any]:
    """The last line of a job with ``--json``."""
    end: dict[str, Any] = json.loads(text.splitlines()[-1])
    assert end["event"] == "end"
    return end
