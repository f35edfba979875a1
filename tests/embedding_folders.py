"""Folders of embeddings as a bulk job writes them, in both layouts: real pictures in tar files, embedded by a bundle."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as parquet
from PIL import Image, ImageDraw

import engines
from engines.files.checksums import file_sha256

COLOURS = ("red", "green", "blue", "yellow", "white")
SHAPES = ("circle", "square", "triangle")


@dataclass(frozen=True)
class Sample:
    """A row to be written; without a vector it is a row that could not be embedded."""

    key: str
    url: str | None
    caption: str | None
    image: npt.NDArray[Any] | None
    text: npt.NDArray[Any] | None = None


def drawing(colour: str, shape: str, side: int = 90) -> bytes:
    """A PNG as the demo model was trained on: one shape on a dark background."""
    picture = Image.new("RGB", (side, side), (40, 40, 40))
    draw, low, high = ImageDraw.Draw(picture), side // 5, side - side // 5
    if shape == "circle":
        draw.ellipse((low, low, high, high), fill=colour)
    elif shape == "square":
        draw.rectangle((low, low, high, high), fill=colour)
    else:
        draw.polygon([(side // 2, low), (low, high), (high, high)], fill=colour)
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, items: Sequence[tuple[str, bytes, str]]) -> None:
    """A webdataset: for each key a PNG and its caption."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, picture, caption in items:
            for suffix, data in (("txt", caption.encode()), ("png", picture)):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))


def write_job(out: Path, bundle: Path, layout: str, towers: Sequence[str], dtype: str, width: int) -> None:
    (out / ".job").mkdir(parents=True)
    manifest = bundle / "manifest.json"
    job = {
        "format": 1,
        "bundle": str(bundle),
        "manifest_sha256": file_sha256(manifest) if manifest.exists() else "0" * 64,
        "model": "demo",
        "towers": list(towers),
        "layout": layout,
        "dtype": dtype,
        "embed_dim": width,
        "max_pixels": None,
        "fast_decode": False,
    }
    (out / ".job" / "job.json").write_text(json.dumps(job))


def write_shard(
    out: Path,
    name: str,
    samples: Sequence[Sample],
    layout: str,
    towers: Sequence[str],
    dtype: str,
    width: int,
    source: str = "",
    kind: str = "tar",
    row_group: int = 7,
) -> None:
    """One shard; `name` is its path without suffix (parquet), or its number (npy)."""
    errors = sum(any(getattr(s, tower) is None for tower in towers) for s in samples)
    told = {"identity": "ab", "input": source, "kind": kind, "rows": len(samples), "errors": errors, "cut": None}
    metadata = {b"openclip_engines": json.dumps(told).encode()}
    texts = [
        pa.field("key", pa.string(), nullable=False),
        pa.field("url", pa.string()),
        pa.field("caption", pa.string()),
    ]
    if layout == "npy":
        samples = [s for s in samples if all(getattr(s, tower) is not None for tower in towers)]
        for tower in towers:
            kind_name = {"image": "img_emb", "text": "text_emb"}[tower]
            (out / kind_name).mkdir(exist_ok=True)
            rows = np.array([getattr(s, tower) for s in samples], dtype).reshape(-1, width)
            np.save(out / kind_name / f"{kind_name}_{name}.npy", rows)
        path, fields, columns = out / "metadata" / f"metadata_{name}.parquet", texts, []
    else:
        path, columns = out / f"{name}.parquet", []
        kind_of = pa.list_(pa.float16() if dtype == "float16" else pa.float32(), width)
        names = ["embedding"] if len(towers) == 1 else ["image_embedding", "text_embedding"]
        fields = [
            *texts,
            *(pa.field(column, kind_of, nullable=False) for column in names),
            pa.field("error", pa.string()),
        ]
        for tower in towers:
            vectors = [getattr(s, tower) for s in samples]
            flat = np.concatenate([np.zeros(width, dtype) if v is None else v.astype(dtype) for v in vectors])
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(flat), width))
        columns.append(pa.array(["broken" if getattr(s, towers[0]) is None else None for s in samples], pa.string()))
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = [pa.array([getattr(s, field) for s in samples], pa.string()) for field in ("key", "url", "caption")]
    table = pa.Table.from_arrays([*plain, *columns], schema=pa.schema(fields, metadata=metadata))
    parquet.write_table(table, path, row_group_size=row_group)


def write_embeddings(
    root: Path, bundle: Path, layout: str, towers: Sequence[str] = ("image",), dtype: str = "float16"
) -> Path:
    """Two tar files of drawings, and their embeddings by the bundle's engines; the last row of each could not be embedded."""
    out, width = root / "out", 0
    names = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    with engines.load(bundle) as clip:
        for number in range(2):
            chosen = names[number::2]
            items = [(f"{number}{i:03d}", drawing(*name), f"a {' '.join(name)}") for i, name in enumerate(chosen)]
            source = root / "data" / f"{number:05d}.tar"
            write_tar(source, items)
            images = clip.encode_image([picture for _, picture, _ in items])
            texts = clip.encode_text([caption for _, _, caption in items])
            if not number:
                width = images.shape[1]
                write_job(out, bundle, layout, towers, dtype, width)
            samples = [
                Sample(key, f"https://example.org/{key}.png", caption, image, text)
                for (key, _, caption), image, text in zip(items, images, texts, strict=True)
            ]
            samples.append(Sample(f"{number}999", None, "damaged", None, None))
            name = f"{number:05d}" if layout == "npy" or not number else f"sub/{number:05d}"
            write_shard(out, name, samples, layout, towers, dtype, width, str(source))
    return out
