"""The pictures of a bulk job in all forms: a folder, eight tars, one parquet file."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

TARS = 8
_BASES = 64
_BROKEN = 1000  # every so many pictures one is cut off


@dataclass(frozen=True)
class BulkInputs:
    """The same pictures and captions three times.

    Attributes:
        folder: where they lie.
        count: number of pictures.
    """

    folder: Path
    count: int

    @property
    def photos(self) -> Path:
        """A folder of JPEG files."""
        return self.folder / "photos"

    @property
    def tars(self) -> str:
        """The pattern of the tars."""
        return str(self.folder / f"{{00000..{TARS - 1:05d}}}.tar")

    @property
    def parquet(self) -> Path:
        """A parquet file with the columns ``key``, ``url``, ``caption`` and ``jpg``."""
        return self.folder / "all.parquet"

    def key(self, number: int) -> str:
        """The key of a picture in the tars and in the parquet file; the name of its file."""
        return f"{number:07d}"


def write_inputs(folder: Path, count: int, side: int = 256) -> BulkInputs:
    """Write pictures that are crops of photographs; nothing is written where they are there already.

    Args:
        folder: an empty folder, or one of an earlier call.
        count: number of pictures, at least as many as tars.
        side: pixels of the shorter side; the longer one is up to 1.5 times as long.
    """
    import pyarrow as pa
    import pyarrow.parquet as parquet

    inputs = BulkInputs(folder, count)
    done = folder / "done.json"
    wanted = {"count": count, "side": side}
    if done.exists() and json.loads(done.read_text()) == wanted:
        return inputs
    inputs.photos.mkdir(parents=True, exist_ok=True)
    done.unlink(missing_ok=True)
    fields = [pa.field(name, pa.string()) for name in ("key", "url", "caption")]
    schema = pa.schema([*fields, pa.field("jpg", pa.binary())])
    each = -(-count // TARS)
    pictures = _pictures(count, side)
    with parquet.ParquetWriter(inputs.parquet, schema) as table:
        for number in range(TARS):
            rows = []
            with tarfile.open(folder / f"{number:05d}.tar", "w") as tar:
                for i in range(number * each, min((number + 1) * each, count)):
                    data, caption, url = (
                        next(pictures),
                        f"a picture with the number {i}",
                        f"https://example.org/{i}.jpg",
                    )
                    (inputs.photos / f"{inputs.key(i)}.jpg").write_bytes(data)
                    _add(tar, f"{inputs.key(i)}.jpg", data)
                    _add(tar, f"{inputs.key(i)}.txt", caption.encode())
                    _add(tar, f"{inputs.key(i)}.json", json.dumps({"url": url}).encode())
                    rows.append({"key": inputs.key(i), "url": url, "caption": caption, "jpg": data})
            table.write_table(pa.Table.from_pylist(rows, schema))
    done.write_text(json.dumps(wanted))
    return inputs


def _pictures(count: int, side: int) -> Iterator[bytes]:
    """Encoded crops of photographs, now and then one that is cut off."""
    from PIL import Image

    from exporter.reference.parity_data import load_parity_data

    bases = load_parity_data(images=_BASES, captions=1).images
    rng = np.random.default_rng(19)
    for i in range(count):
        base = bases[i % len(bases)]
        share = rng.uniform(0.6, 1.0)
        width, height = (max(round(length * share), 16) for length in base.size)
        left, top = (
            int(rng.integers(0, full - part + 1)) for full, part in zip(base.size, (width, height), strict=True)
        )
        long_side = round(side * rng.uniform(1.0, 1.5))
        size = (side, long_side) if rng.random() < 0.5 else (long_side, side)
        crop = base.convert("RGB").resize(size, Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        file = io.BytesIO()
        crop.save(file, "JPEG", quality=90)
        data = file.getvalue()
        yield data[: len(data) // 2] if i % _BROKEN == _BROKEN // 2 else data


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
