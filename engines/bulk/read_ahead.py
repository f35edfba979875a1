"""Samples of successive shards, read ahead by a thread."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from engines.bulk.layouts import ShardWriter
from engines.errors import InputError
from engines.shards.input_shards import InputShard
from engines.shards.samples import ReaderNotes, Sample

_AHEAD_SAMPLES = 256  # samples that are read ahead, at most,
_AHEAD_BYTES = 256 << 20  # and their bytes
_CLOSE_SECONDS = 5.0


@dataclass
class ShardTask:
    """A shard to be made.

    Attributes:
        shard: its input.
        identity: hash of the job and of the input.
        read: a function that reads its samples.
        begin: a function that begins its output.
        is_ours: a function that says whether this job still has the shard's lease; without it, the output is not published.
        refusal: a function that says why the output may not be published all the same; None where it may.
    """

    shard: InputShard
    identity: str
    read: Callable[[ReaderNotes], Iterator[Sample]]
    begin: Callable[[], ShardWriter]
    is_ours: Callable[[], bool] = lambda: True
    refusal: Callable[[], str | None] = lambda: None


@dataclass
class ShardBegins:
    """The samples of a shard follow."""

    task: ShardTask


@dataclass
class ShardEnds:
    """All samples of a shard were read; `problem` says why the shard cannot be read, if so."""

    notes: ReaderNotes
    problem: str | None = None


class ReadAhead:
    """A thread that reads samples ahead, bounded in number and bytes."""

    def __init__(self, tasks: Iterable[ShardTask]) -> None:
        self._tasks = tasks
        self._queue: queue.Queue[ShardBegins | Sample | ShardEnds | BaseException | None] = queue.Queue(_AHEAD_SAMPLES)
        self._bytes = 0
        self._room = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="read ahead", daemon=True)
        self._thread.start()

    def items(self) -> Iterator[ShardBegins | Sample | ShardEnds]:
        """What was read, in order."""
        while (item := self._queue.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Sample) and isinstance(item.image, bytes):
                with self._room:
                    self._bytes -= len(item.image)
                    self._room.notify()
            yield item

    def close(self) -> None:
        """Stop reading, and wait until the thread has ended; not for ever, because a read from a network may hang."""
        end = time.monotonic() + _CLOSE_SECONDS
        with self._room:
            self._closed = True
            self._room.notify()
        while self._thread.is_alive() and time.monotonic() < end:
            try:
                while True:
                    self._queue.get_nowait()
            except queue.Empty:
                self._thread.join(0.02)

    def _run(self) -> None:
        try:
            for task in self._tasks:
                if not self._put(ShardBegins(task)) or not self._read(task):
                    return
        except BaseException as error:  # noqa: BLE001 - raised in the caller's thread
            self._put(error)
            return
        self._put(None)

    def _read(self, task: ShardTask) -> bool:
        notes = ReaderNotes()
        try:
            samples = task.read(notes)
            try:
                for sample in samples:
                    if not self._put(sample):
                        return False
            finally:
                close = getattr(samples, "close", None)
                if close is not None:
                    close()
        except InputError as error:
            return self._put(ShardEnds(notes, str(error)))
        return self._put(ShardEnds(notes))

    def _put(self, item: ShardBegins | Sample | ShardEnds | BaseException | None) -> bool:
        """Queue an item; False where the reader was closed."""
        size = len(item.image) if isinstance(item, Sample) and isinstance(item.image, bytes) else 0
        with self._room:
            # One sample always fits, however large it is.
            self._room.wait_for(lambda: self._closed or self._bytes == 0 or self._bytes + size <= _AHEAD_BYTES)
            self._bytes += size
        while not self._closed:
            try:
                self._queue.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
