"""Small made pictures as files, and as members of one tar file."""

from __future__ import annotations

import functools
import io
import tarfile

import numpy as np
from PIL import Image


def picture(index: int) -> Image.Image:
    rng = np.random.default_rng(index)
    coarse = rng.integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((400 + 3 * index, 300 - 2 * index), Image.Resampling.BICUBIC)


@functools.cache
def encoded(index: int, kind: str) -> bytes:
    file = io.BytesIO()
    picture(index).save(file, kind)
    return file.getvalue()


def archive(kind: str, count: int) -> tarfile.TarFile:
    """An opened tar file of pictures: all members share one file object and its position."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for index in range(count):
            data = encoded(index, kind)
            info = tarfile.TarInfo(f"{index}.x")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    file.seek(0)
    return tarfile.open(fileobj=file)


def members(tar: tarfile.TarFile) -> list[Image.Image]:
    files = [tar.extractfile(member) for member in tar.getmembers()]
    return [Image.open(file) for file in files if file is not None]
