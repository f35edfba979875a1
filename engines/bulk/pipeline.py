"""Samples of successive shards become rows with embeddings, and rows become files.

A thread reads samples ahead, the embedder's threads decode them, and the caller's thread runs the engine and writes. Batches of
images cross the borders between shards, so that the engine does not wait where one ends.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engines.bulk.encode import Embedding, RowEncoder
from engines.bulk.layouts import Rows, ShardRecord, ShardWriter
from engines.bulk.read_ahead import ReadAhead, ShardBegins, ShardEnds, ShardTask
from engines.embedder import Embedder
from engines.errors import ImageError
from engines.manifest import TowerName
from engines.shards.samples import Sample, clean_text

_WRITE_ROWS = 256  # rows that are embedded as texts, and written, together
_MOST_QUEUED = (
    8192  # rows between reading and writing, where few of them wait for the image tower; or eight of its batches
)


@dataclass
class Finished:
    """A shard that was published; or that failed: then `problem` has the reason; or that another job has taken over: `is_lost`."""

    task: ShardTask
    record: ShardRecord | None = None
    problem: str | None = None
    is_lost: bool = False
    first_errors: list[str] = field(default_factory=list)  # the reasons of the first rows that have no embedding


@dataclass(slots=True)
class _Row:
    sample: Sample
    waits: bool  # for the image tower
    embedding: Embedding | None = None
    problem: str | None = None


def embed_shards(
    clip: Embedder,
    towers: tuple[TowerName, ...],
    tasks: Iterable[ShardTask],
    progress: Callable[[int], None] = lambda rows: None,
) -> Iterator[Finished]:
    """Make shards one after the other.

    Args:
        clip: the loaded bundle.
        towers: which embeddings to make of each sample.
        tasks: the shards; they are drawn in another thread, ahead of the work.
        progress: gets the number of rows that were written since it was called last.

    Yields:
        Each shard when it is published, or has failed because its input cannot be read.

    Raises:
        EngineError: the engine failed, or the output cannot be written. Files that are not published are removed.
    """
    reader = ReadAhead(tasks)
    work = _Work(clip, towers, progress)
    try:
        if "image" in towers:
            rows, items = clip.throughput_plan("image").rows, reader.items()
            while not work.all_read:
                for _, batch in clip.preprocess_ahead(work.images(items, max(_MOST_QUEUED, 8 * rows)), rows):
                    work.take_images(batch)
                    yield from work.take_finished()
                work.end_images()
                yield from work.take_finished()
        else:
            for item in reader.items():
                work.add(item)
                yield from work.take_finished()
        yield from work.take_finished()
    finally:
        reader.close()
        work.close()


class _Work:
    """The rows between reading and writing."""

    def __init__(self, clip: Embedder, towers: tuple[TowerName, ...], progress: Callable[[int], None]) -> None:
        self._clip, self._towers, self._progress = clip, towers, progress
        self._encoder = RowEncoder(clip)
        self._in_flight = clip.throughput_plan("image").in_flight if "image" in towers else 1
        self._pool = ThreadPoolExecutor(self._in_flight, thread_name_prefix="engine") if self._in_flight > 1 else None
        # Batches in the engine: all their rows, those with pixels, and the running call; the oldest first.
        self._running: deque[tuple[list[_Row], list[_Row], Future[list[Embedding | str]] | None]] = deque()
        self._embed_dim = clip.manifest.model.embed_dim
        self._queue: deque[ShardBegins | _Row | ShardEnds] = deque()
        self._waiting: deque[_Row] = deque()  # those rows of the queue that wait for the image tower
        self._ready: list[_Row] = []
        self._current: _Shard | None = None
        self._finished: list[Finished] = []
        self.all_read = False  # whether `images` has met the end

    def images(self, items: Iterator[ShardBegins | Sample | ShardEnds], most: int) -> Iterator[bytes | str]:
        """Queue what was read, and yield the images in it, until a shard is finished or `most` rows are queued; then once more.

        Without that end, rows that need no image tower would be queued without bound behind one that waits for a full batch.
        """
        for item in items:
            image = self.add(item)
            if image is not None:
                yield image
            if self._finished or len(self._queue) >= most:
                return
        self.all_read = True

    def add(self, item: ShardBegins | Sample | ShardEnds) -> bytes | str | None:
        """Queue one item, and write what waits for nothing; returns the image that must be embedded for it, if there is one."""
        image = self._queued(item)
        self._write_ready()
        return image

    def _queued(self, item: ShardBegins | Sample | ShardEnds) -> bytes | str | None:
        if not isinstance(item, Sample):
            self._queue.append(item)
            return None
        if item.earlier is not None:
            self._queue.append(_Row(item, False, _earlier(item, "image")))
            return None
        problem = item.problem
        if problem is None and "image" in self._towers and item.image is None:
            problem = f"{item.key}: there is no picture"
        if problem is None and "text" in self._towers and item.caption is None:
            problem = f"{item.key}: there is no caption"
        waits = "image" in self._towers and item.image is not None and item.problem is None
        row = _Row(item, waits, problem=problem)
        image, item.image = item.image, None  # the row does not keep the bytes
        self._queue.append(row)
        if not waits:
            return None
        self._waiting.append(row)
        return image

    def take_images(self, batch: list[npt.NDArray[np.uint8] | ImageError]) -> None:
        """Embed a batch of pixels, the images of the rows that wait longest; as many batches as the engine takes at a time."""
        rows = [self._waiting.popleft() for _ in batch]
        for row, item in zip(rows, batch, strict=True):
            if isinstance(item, ImageError):
                row.problem = _named(str(item), row.sample)
        good = [row for row, item in zip(rows, batch, strict=True) if not isinstance(item, ImageError)]
        pixels = [item for item in batch if not isinstance(item, ImageError)]
        if self._pool is None:
            self._take_embeddings(rows, good, self._encoder.images(pixels) if pixels else [])
            return
        while len(self._running) >= self._in_flight:
            self._take_oldest()
        self._running.append((rows, good, self._pool.submit(self._encoder.images, pixels) if pixels else None))

    def end_images(self) -> None:
        """Wait for the batches that the engine still works on."""
        while self._running:
            self._take_oldest()

    def _take_oldest(self) -> None:
        rows, good, running = self._running.popleft()
        self._take_embeddings(rows, good, [] if running is None else running.result())

    def _take_embeddings(self, rows: list[_Row], good: list[_Row], embeddings: list[Embedding | str]) -> None:
        for row, embedding in zip(good, embeddings, strict=True):
            if isinstance(embedding, str):
                row.problem = f"{row.sample.key}: {embedding}"
            else:
                row.embedding = embedding
        for row in rows:
            row.waits = False
        self._write_ready()

    def take_finished(self) -> list[Finished]:
        """The shards that were completed since the last call."""
        finished, self._finished = self._finished, []
        return finished

    def _write_ready(self) -> None:
        """Write the first rows of the queue as far as they wait for nothing."""
        while self._queue:
            item = self._queue[0]
            if isinstance(item, _Row):
                if item.waits:
                    break
                self._ready.append(item)
                if len(self._ready) >= _WRITE_ROWS:
                    self._write()
            elif isinstance(item, ShardBegins):
                self._current = _Shard(item.task, item.task.begin())
            else:
                self._finished.append(self._complete(item))
            self._queue.popleft()

    def close(self) -> None:
        """Stop, and remove the files of the shard that is being written."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._abandon()

    def _abandon(self) -> None:
        """Remove the files of the shard that is being written."""
        if self._current is not None:
            self._current.writer.abandon()
            self._current = None

    def _write(self) -> None:
        assert self._current is not None
        rows, self._ready = self._ready, []
        if rows:
            self._current.add(self._rows(rows))
            self._progress(len(rows))

    def _complete(self, end: ShardEnds) -> Finished:
        assert self._current is not None
        self._write()
        shard = self._current
        if end.problem is not None:
            self._abandon()
            return Finished(shard.task, problem=end.problem)
        record = ShardRecord(
            shard.task.identity,
            shard.task.shard.source,
            shard.task.shard.kind,
            shard.rows,
            shard.errors,
            end.notes.cut,
            end.notes.duplicate_keys,
            dict(self._clip.engines),
            shard.missing,
            shard.missing_all,
            end.notes.further_pictures if "image" in self._towers else 0,
        )
        if not shard.task.is_ours():
            self._abandon()
            return Finished(shard.task, is_lost=True)
        refusal = shard.task.refusal()
        if refusal is not None:
            self._abandon()
            return Finished(shard.task, problem=refusal)
        shard.writer.publish(record)
        if shard.writer.several_files and not shard.task.is_ours():
            # This process stood still between two files, and another job has published its own meanwhile: some may be of each.
            shard.writer.withdraw()
            self._current = None
            return Finished(shard.task, is_lost=True)
        self._current = None
        return Finished(shard.task, record, first_errors=shard.first_errors)

    def _rows(self, rows: list[_Row]) -> Rows:
        embeds, present = {}, {}
        for tower in self._towers:
            found = self._texts(rows) if tower == "text" else [row.embedding for row in rows]
            present[tower] = np.array([embedding is not None for embedding in found], dtype=bool)
            embeds[tower] = np.zeros((len(rows), self._embed_dim), np.float32)
            for i, embedding in enumerate(found):
                if embedding is not None:
                    embeds[tower][i] = embedding
        samples = [row.sample for row in rows]
        return Rows(
            [sample.key for sample in samples],
            [sample.url for sample in samples],
            [sample.caption for sample in samples],
            [None if row.problem is None else clean_text(row.problem) for row in rows],
            embeds,
            present,
        )

    def _texts(self, rows: list[_Row]) -> list[Embedding | None]:
        found: list[Embedding | None] = [_earlier(row.sample, "text") for row in rows]
        wanted = [i for i, row in enumerate(rows) if found[i] is None and row.sample.caption is not None]
        if wanted:
            texts = [rows[i].sample.caption or "" for i in wanted]
            for i, embedding in zip(wanted, self._encoder.texts(texts), strict=True):
                if isinstance(embedding, str):
                    rows[i].problem = rows[i].problem or f"{rows[i].sample.key}: {embedding}"
                else:
                    found[i] = embedding
        return found


class _Shard:
    """A shard that is being written."""

    def __init__(self, task: ShardTask, writer: ShardWriter) -> None:
        self.task, self.writer = task, writer
        self.rows = self.errors = self.missing_all = 0
        self.missing: dict[str, int] = {}
        self.first_errors: list[str] = []

    def add(self, rows: Rows) -> None:
        self.rows += len(rows.keys)
        problems = [problem for problem in rows.problems if problem is not None]
        self.errors += len(problems)
        for tower, present in rows.present.items():
            self.missing[tower] = self.missing.get(tower, 0) + int(np.count_nonzero(~present))
        self.missing_all += int(np.count_nonzero(~np.any(list(rows.present.values()), axis=0)))
        self.first_errors = [*self.first_errors, *problems][:20]
        self.writer.add(rows)


def _earlier(sample: Sample, tower: TowerName) -> Embedding | None:
    """The embedding that an earlier run made of a sample."""
    return None if sample.earlier is None else sample.earlier.get(tower)


def _named(message: str, sample: Sample) -> str:
    """An error of an image; one of bytes is named by its row's key."""
    return message if message.startswith(sample.key) else f"{sample.key}: {message}"
