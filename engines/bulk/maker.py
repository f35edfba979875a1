"""The part of a bulk job that one process does: which of some shards need work, and making those."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from engines.bulk.description import JobDescription
from engines.bulk.layouts import Damaged, EarlierRows, NotOfAJob, ShardRecord
from engines.bulk.pipeline import embed_shards
from engines.bulk.read_ahead import ShardTask
from engines.embedder import Embedder
from engines.errors import EngineError, InputError
from engines.files.leases import Leases
from engines.files.output_folder import Folder
from engines.files.storage import NotThereError, is_remote
from engines.shards.input_shards import InputShard
from engines.shards.read_shard import read_samples
from engines.shards.samples import Columns, ReaderNotes, Sample

Status = Literal["made", "was there", "failed", "busy"]

_LISTING_SECONDS = 60.0
_CHECKS_AHEAD = 16  # shards of a remote folder that are checked together, because each check waits for the store


@dataclass(frozen=True)
class MakeOptions:
    """Options of making shards.

    Attributes:
        columns: names of columns in parquet files.
        retry_failed: whether shards with rows that failed, or of an input that was cut off, are made again.
        replace_changed: whether shards whose input has changed are made again; they are failures otherwise.
    """

    columns: Columns = field(default_factory=Columns)
    retry_failed: bool = False
    replace_changed: bool = False


@dataclass(frozen=True)
class Outcome:
    """What became of one shard.

    Attributes:
        shard: the input shard.
        status: ``made``; ``was there``: it was whole already; ``failed``: `reason` says why; ``busy``: another job works on it.
        record: the shard's record, where it is whole.
        reason: why it failed, or which process works on it; of a shard that was made, why it was made again, if it was.
        first_errors: the reasons of the first rows with an error.
        seconds: time since the job began the shard before.
    """

    shard: InputShard
    status: Status
    record: ShardRecord | None = None
    reason: str | None = None
    first_errors: tuple[str, ...] = ()
    seconds: float = 0.0


class ShardMaker:
    """Makes shards in an output folder.

    Args:
        clip: the loaded bundle.
        folder: the output folder.
        description: the job's description, as it is in the folder.
        options: see `MakeOptions`.
        leases: the leases of this process on the folder.
    """

    def __init__(
        self, clip: Embedder, folder: Folder, description: JobDescription, options: MakeOptions, leases: Leases
    ) -> None:
        self._clip, self._folder, self._description, self._options = clip, folder, description, options
        self._layout, self._leases = description.make_layout(), leases
        self._checker = Checker(folder, description, options)

    def make(
        self,
        shards: Iterable[InputShard],
        report: Callable[[Outcome], None],
        progress: Callable[[int], None] = lambda rows: None,
        checked: bool = False,
    ) -> None:
        """Make those of the shards that need it.

        Args:
            shards: the shards; they are drawn in another thread.
            report: gets the outcome of each shard as soon as it is known; also called in another thread.
            progress: gets the number of rows that were written since the last call.
            checked: whether a `Checker` has found already that the shards need work: the folder is not listed again.

        Raises:
            EngineError: the engine failed, or the output cannot be written.
        """
        reasons: dict[str, str] = {}
        began = time.monotonic()
        checks = map(Check, shards) if checked else self._checker.check_all(shards)
        for finished in embed_shards(
            self._clip, self._description.towers, self._tasks(checks, report, reasons), progress
        ):
            shard, now = finished.task.shard, time.monotonic()
            self._leases.release(shard.name)
            if finished.is_lost:
                reasons.pop(shard.name, None)
                report(Outcome(shard, "busy", reason="another job", seconds=now - began))
            elif finished.problem is not None:
                report(Outcome(shard, "failed", reason=finished.problem, seconds=now - began))
            else:
                reason = reasons.pop(shard.name, None)
                report(Outcome(shard, "made", finished.record, reason, tuple(finished.first_errors), now - began))
            began = now

    def _tasks(
        self, checks: Iterable[Check], report: Callable[[Outcome], None], reasons: dict[str, str]
    ) -> Iterator[ShardTask]:
        for check in checks:
            shard = check.shard
            if check.outcome is not None:
                report(check.outcome)
                continue
            holder = self._leases.take(shard.name)
            if holder is not None:
                report(Outcome(shard, "busy", reason=holder.process))
                continue
            check = self._checker.check(shard, fresh=True)  # another job may have finished it before the lease was free
            if check.outcome is not None:
                self._leases.release(shard.name)
                report(check.outcome)
                continue
            if check.reason is not None:
                reasons[shard.name] = check.reason
            begin = partial(self._layout.write, self._folder, shard.name)
            read = self._read_again if check.again else self._read
            is_ours, refusal = partial(self._leases.holds, shard.name), partial(self._checker.refusal, shard)
            yield ShardTask(shard, check.identity, partial(read, shard), begin, is_ours, refusal)

    def _read_again(self, shard: InputShard, notes: ReaderNotes) -> Iterator[Sample]:
        """The samples of a shard, those with an embedding of an earlier run without their pictures."""
        rows: EarlierRows | None = None
        with contextlib.suppress(EngineError):
            rows = self._layout.read_rows(self._folder, shard.name)
        for sample in self._read(shard, notes):
            try:
                sample.earlier = None if rows is None else rows.take(sample.key)
            except (
                EngineError
            ):  # the file is damaged where its footer does not show it: the other rows are made again, too
                rows = None
            if sample.earlier is not None:
                sample.image, sample.problem = None, None
            yield sample

    def _read(self, shard: InputShard, notes: ReaderNotes) -> Iterator[Sample]:
        return read_samples(shard, notes, self._options.columns, self._description.towers)


@dataclass(frozen=True)
class Check:
    """Whether a shard needs work: `outcome` is None if it does, and then `reason` says why it is made again, if it is.

    `again` is whether the rows that have an embedding can be kept.
    """

    shard: InputShard
    identity: str = ""
    outcome: Outcome | None = None
    reason: str | None = None
    again: bool = False


class Checker:
    """Finds out whether a shard is in the output folder, whole, and of the same input."""

    def __init__(self, folder: Folder, description: JobDescription, options: MakeOptions) -> None:
        self._folder, self._options = folder, options
        self._digest, self._layout = description.digest(), description.make_layout()
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._listed = float("-inf")

    def check_all(self, shards: Iterable[InputShard]) -> Iterator[Check]:
        """Check shards in their order; those in a remote folder several at a time."""
        if not is_remote(self._folder.url):
            yield from map(self.check, shards)
            return
        pool = ThreadPoolExecutor(_CHECKS_AHEAD, thread_name_prefix="check")
        waiting: deque[Future[Check]] = deque()
        try:
            for shard in shards:
                waiting.append(pool.submit(self.check, shard))
                if len(waiting) > _CHECKS_AHEAD:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def check(self, shard: InputShard, fresh: bool = False) -> Check:
        """Check one shard.

        Args:
            shard: the shard.
            fresh: whether the file is looked for itself, and not in the listing of the folder, which is up to a minute old.
        """
        try:
            record, damage = self._record(shard, fresh)
        except NotOfAJob as error:
            return Check(shard, outcome=Outcome(shard, "failed", reason=self._foreign(error)))
        except InputError as error:
            return Check(shard, outcome=Outcome(shard, "failed", reason=self._unseen(error)))
        try:
            identity = self._identity(shard)
        except InputError as error:
            if record is not None:  # the input was removed after it was embedded
                return Check(shard, outcome=Outcome(shard, "was there", record))
            return Check(shard, outcome=Outcome(shard, "failed", reason=str(error)))
        if record is None:
            return Check(shard, identity, reason=damage)
        if record.identity != identity:
            if self._options.replace_changed:
                return Check(shard, identity, reason="its input has changed")
            done = f"{self._folder.url}/{self._layout.done_name(shard.name)}"
            remedy = "pass --replace-changed to make such shards again"
            reason = f"{done} was made from another input than {shard.source} is now: {remedy}"
            if shard.kind == "files" and record.input != shard.source:
                reason = (
                    f"{done} was made from {record.input}, and this job names {shard.source}: if it is the same folder, name it as "
                    "before, because rows have the names of their files; if it is another one, pass another --out"
                )
            return Check(shard, identity, Outcome(shard, "failed", record, reason))
        if self._options.retry_failed and (record.errors or record.cut):
            return Check(shard, identity, reason="it had rows that failed", again=True)
        return Check(shard, identity, Outcome(shard, "was there", record))

    def _record(self, shard: InputShard, fresh: bool) -> tuple[ShardRecord | None, str | None]:
        if not fresh and self._listing().isdisjoint(self._layout.names(shard.name)):
            return None, None
        try:
            return self._layout.read_record(self._folder, shard.name), None
        except Damaged as error:
            return None, f"it was damaged ({error})"
        except NotThereError:
            return None, None

    def refusal(self, shard: InputShard) -> str | None:
        """The reason why a shard's files may not be published: another program wrote one, or one cannot be read."""
        try:
            with contextlib.suppress(Damaged, NotThereError):
                self._layout.read_record(self._folder, shard.name)
        except NotOfAJob as error:
            return self._foreign(error)
        except InputError as error:
            return self._unseen(error)
        return None

    def _unseen(self, error: InputError) -> str:
        return f"its output in {self._folder.url} cannot be looked at ({error})"

    def _foreign(self, error: NotOfAJob) -> str:
        return (
            f"{self._folder.url} has a file with the name of this shard's output, which no job wrote ({error}): move it "
            "away, or pass another --out"
        )

    def _listing(self) -> set[str]:
        with self._lock:
            if time.monotonic() - self._listed > _LISTING_SECONDS:
                self._names = self._folder.names()
                self._listed = time.monotonic()
            return self._names

    def _identity(self, shard: InputShard) -> str:
        return hashlib.sha256(f"{self._digest} {shard.identity()}".encode()).hexdigest()
