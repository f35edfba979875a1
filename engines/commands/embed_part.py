"""One finished part of a long embedding job: a file that is whole or absent, and that holds the state of its input files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.files.npz_files import opened_npz

Embeddings = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Part:
    """The embeddings of some consecutive items.

    Attributes:
        kept: (K,) int64, ascending: indices of the part's items that have an embedding.
        embeds: (K, D) float32; (0, 0) where no item has an embedding.
        skipped: index of every other item to the reason why it has no embedding.
        stats: (items, 2) int64, the result of `stat_files`; (0, 2) for texts.
    """

    kept: npt.NDArray[np.int64]
    embeds: Embeddings
    skipped: Mapping[int, str]
    stats: npt.NDArray[np.int64]

    def stale(self, files: Sequence[str]) -> list[int]:
        """Indices of the part's files that have changed (size or time of the last change), or could not be read for the part."""
        changed = np.flatnonzero((stat_files(files) != self.stats).any(axis=1))
        return sorted({*changed.tolist(), *self.skipped})

    def replace(self, rows: Sequence[int], new: Part) -> Part:
        """This part with the items `rows` replaced by those of `new`; `rows` must include all items that this part skipped."""
        index = np.asarray(rows, dtype=np.int64)
        stay = ~np.isin(self.kept, index)
        kept = np.concatenate([self.kept[stay], index[new.kept]])
        order = np.argsort(kept)
        blocks = [embeds for embeds in (self.embeds[stay], new.embeds) if len(embeds)]
        embeds = np.concatenate(blocks)[order] if blocks else np.zeros((0, 0), np.float32)
        stats = self.stats.copy()
        stats[index] = new.stats
        return Part(kept[order], embeds, {rows[i]: message for i, message in new.skipped.items()}, stats)


def stat_files(files: Sequence[str]) -> npt.NDArray[np.int64]:
    """Size (bytes) and time of the last change (nanoseconds) of every file, (files, 2) int64; -1 twice for a missing file."""
    stats = np.full((len(files), 2), -1, np.int64)
    for row, file in enumerate(files):
        try:
            stat = os.stat(file)
        except (OSError, ValueError):  # ValueError: a zero byte in the name
            continue
        stats[row] = stat.st_size, stat.st_mtime_ns
    return stats


def save_part(path: Path, part: Part) -> None:
    """Write a part and move it to its place in one rename, so that a kill or a full disk leaves none or all of it."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as file:
        np.savez(
            file,
            kept=part.kept,
            embeds=part.embeds,
            skipped=np.array(json.dumps(dict(part.skipped))),
            stats=part.stats,
        )
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load_part(path: Path, with_embeds: bool = True) -> Part:
    """Read a part.

    Args:
        path: the file that `save_part` wrote.
        with_embeds: False leaves the embeddings on disk, and `Part.embeds` is (0, 0).

    Raises:
        EngineError: the file is damaged.
    """
    with opened_npz(path, EngineError, "is damaged", f"delete {path.parent} and start again") as arrays:
        embeds = arrays["embeds"] if with_embeds else np.zeros((0, 0), np.float32)
        skipped = {int(row): str(message) for row, message in json.loads(str(arrays["skipped"])).items()}
        part = Part(arrays["kept"], embeds, skipped, arrays["stats"])
        if not _fits_together(part) or (with_embeds and len(embeds) != len(part.kept)):
            raise ValueError("its arrays do not fit together")
        return part


def _fits_together(part: Part) -> bool:
    """Whether types and shapes are right, and each item is either kept or skipped.

    The check is needed because NumPy reads less than the file has, and raises nothing, where a changed byte made the shape in a
    header smaller.
    """
    types = [(array.dtype.name, array.ndim) for array in (part.kept, part.embeds, part.stats)]
    if types != [("int64", 1), ("float32", 2), ("int64", 2)]:
        return False
    count = len(part.kept) + len(part.skipped)
    items = {*part.kept.tolist(), *part.skipped} == set(range(count))
    return items and part.stats.shape in ((0, 2), (count, 2))
