"""Small labelled datasets on disk, for tests."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image


def picture_bytes(image: Image.Image, kind: str = "PNG") -> bytes:
    """An encoded picture."""
    file = io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


def noise(seed: int, size: tuple[int, int] = (20, 16)) -> Image.Image:
    """A picture of random pixels."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def write_shard(path: Path, files: Iterable[tuple[str, bytes]]) -> None:
    """A .tar of named files, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in files:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def write_webdataset(root: Path, samples: Iterable[Mapping[str, bytes]], shards: int = 2, **texts: list[str]) -> Path:
    """A webdataset in clip-benchmark's layout, with `texts` as files of lines: ``classnames=[…]`` makes classnames.txt."""
    rows = list(samples)
    for i in range(shards):
        part = rows[i * len(rows) // shards : (i + 1) * len(rows) // shards]
        files = [(f"s{i}{j:05}.{suffix}", data) for j, row in enumerate(part) for suffix, data in row.items()]
        write_shard(root / "test" / f"{i}.tar", files)
    (root / "test" / "nshards.txt").write_text(f"{shards}\n")
    for name, lines in texts.items():
        (root / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return root
