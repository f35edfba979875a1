"""Exact search: over the files, block by block, or over embeddings that are kept in memory for many queries."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import InputError
from engines.inputs.arguments import check_embeddings
from engines.manifest import TowerName
from engines.process.cores import usable_cores
from engines.search.shards import Block, Row, Shards
from engines.search.storage import Folder
from engines.search.top import TopK


@dataclass(frozen=True)
class Hit:
    """A row that a search found.

    Attributes:
        score: cosine similarity with the query.
        row: key, url, caption, and the shard and number of the row.
    """

    score: float
    row: Row


def search_files(shards: Shards, queries: npt.NDArray[np.float32], k: int) -> tuple[list[list[Hit]], int]:
    """Search once, reading each shard once; memory holds a block for each thread.

    Args:
        shards: an opened folder.
        queries: (Q, D) float32, of unit length.
        k: number of hits for each query.

    Returns:
        The hits of each query, the best first (at equal scores, in the order of the shards), and the number of rows that were
        compared.

    Raises:
        InputError: a shard is damaged, or an argument has another shape or range.
    """
    top = _begin(shards, queries, k)

    def scan(shard: int) -> None:
        for block in shards.blocks(shard):
            _add(top, block, shards, shard)

    _in_threads(scan, len(shards.names))
    return _hits(top, shards), top.rows


class Index:
    """Embeddings in memory, for many queries. Many threads may search at once.

    Attributes:
        shards: the opened folder; `search` reads the metadata of its hits there.
        bytes: size of the embeddings in memory.
        rows: their number.
    """

    def __init__(self, shards: Shards, blocks: list[tuple[int, Block]]) -> None:
        """Use `load`."""
        self.shards = shards
        self._blocks = blocks
        self.rows = sum(len(block.vectors) for _, block in blocks)
        self.bytes = sum(block.vectors.nbytes for _, block in blocks)

    @classmethod
    def load(cls, out: str | os.PathLike[str], tower: TowerName | None = None) -> Index:
        """Read a folder of embeddings; in memory they have the type of the files.

        Args:
            out: path or URL of the folder.
            tower: which embeddings; None is the image tower's, or those of the only tower.

        Raises:
            InputError: it is no such folder, a shard is damaged, or pyarrow is missing.
        """
        shards = Shards(Folder(out), tower)

        def read(shard: int) -> list[tuple[int, Block]]:
            return [(shard, block) for block in shards.blocks(shard)]

        return cls(shards, [block for blocks in _in_threads(read, len(shards.names)) for block in blocks])

    def search(self, queries: npt.NDArray[np.float32], k: int = 20) -> list[list[Hit]]:
        """The k best rows for each query, the best first; at equal scores, in the order of the shards.

        Args:
            queries: (Q, D) float32, of unit length, such as `engines.Embedder.encode_text` returns them.
            k: number of hits for each query.

        Raises:
            InputError: an argument has another shape or range, or embeddings are damaged.
        """
        top = _begin(self.shards, queries, k)

        def scan(number: int) -> None:
            shard, block = self._blocks[number]
            _add(top, block, self.shards, shard)

        _in_threads(scan, len(self._blocks))
        return _hits(top, self.shards)


def _begin(shards: Shards, queries: npt.NDArray[np.float32], k: int) -> TopK:
    if k < 1:
        raise InputError(f"{k} hits are none: pass 1 or more (--top on the command line)")
    return TopK(check_embeddings("queries", queries, shards.job.embed_dim), k)


def _add(top: TopK, block: Block, shards: Shards, shard: int) -> None:
    try:
        top.add(block.vectors, block.positions)
    except ValueError as error:
        raise InputError(f"{shards.folder.path(shards.names[shard])} is damaged: {error}; run the job again") from error


def _hits(top: TopK, shards: Shards) -> list[list[Hit]]:
    results = top.result()
    places = sorted({int(position) for _, positions in results for position in positions})
    rows = dict(zip(places, shards.rows(places), strict=True))
    return [
        [Hit(float(score), rows[int(position)]) for score, position in zip(scores, positions, strict=True)]
        for scores, positions in results
    ]


def _in_threads(work: Callable[[int], Any], count: int) -> list[Any]:
    """Results of a function of 0 to `count` - 1, in order; the first error ends the rest."""
    with ThreadPoolExecutor(max(1, min(usable_cores(), count))) as threads:
        futures = [threads.submit(work, number) for number in range(count)]
        try:
            return [future.result() for future in futures]
        except BaseException:
            threads.shutdown(wait=True, cancel_futures=True)
            raise
