"""A whole bulk job: all shards of its part, those of other jobs that ended, and a summary."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from engines.bulk.description import JobDescription
from engines.bulk.layouts import Damaged, NotOfAJob, ShardRecord
from engines.bulk.maker import MakeOptions, Outcome, ShardMaker
from engines.embedder import Embedder
from engines.errors import InputError
from engines.files.leases import Leases
from engines.files.output_folder import Folder
from engines.files.storage import NotThereError
from engines.shards.input_shards import InputShard, Sources

_NAMED = 100  # failed and cut shards that a summary names; more are counted
_FIRST_WAIT_SECONDS = 0.25
_WAIT_SECONDS = 5.0


@dataclass
class Summary:
    """What a job did. Its size does not grow with the number of shards.

    Attributes:
        shards: number of shards of this job's part.
        made, there, failed: number of shards that were made, were whole already, and failed.
        rows, errors: rows of the shards that were made, and those of them with an error.
        missing: for each tower of the job the number of those rows of which it made no embedding.
        missing_all: number of those rows of which no tower made an embedding.
        duplicate_keys: rows of the shards that were made whose key an earlier row of the same shard has.
        further_pictures: pictures in the inputs of those shards that were left out, because another one is that of their row.
        problems: names and reasons of the first failed shards.
        cut: the sentences about the first inputs that ended too early.
        again: names and reasons of the first shards that were made again.
        first_errors: the reasons of the first rows with an error.
        seconds: duration of the job.
    """

    shards: int = 0
    made: int = 0
    there: int = 0
    failed: int = 0
    rows: int = 0
    errors: int = 0
    missing: dict[str, int] = field(default_factory=dict)
    missing_all: int = 0
    duplicate_keys: int = 0
    further_pictures: int = 0
    problems: list[tuple[str, str]] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    again: list[tuple[str, str]] = field(default_factory=list)
    first_errors: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one shard; a shard that is busy does not count."""
        if outcome.status == "was there":
            self.there += 1
        elif outcome.status == "failed":
            self.failed += 1
            if len(self.problems) < _NAMED:
                self.problems.append((outcome.shard.name, outcome.reason or ""))
        elif outcome.status == "made" and outcome.record is not None:
            record = outcome.record
            self.made += 1
            self.rows += record.rows
            self.errors += record.errors
            for tower, count in record.missing.items():
                self.missing[tower] = self.missing.get(tower, 0) + count
            self.missing_all += record.missing_all
            self.duplicate_keys += record.duplicate_keys
            self.further_pictures += record.further_pictures
            if record.cut is not None and len(self.cut) < _NAMED:
                self.cut.append(record.cut)
            if outcome.reason is not None and len(self.again) < _NAMED:
                self.again.append((outcome.shard.name, outcome.reason))
            self.first_errors = [*self.first_errors, *outcome.first_errors][:20]

    @property
    def finished(self) -> int:
        """The number of shards whose outcome is known."""
        return self.made + self.there + self.failed


class Reporter(Protocol):
    """What shows the course of a job."""

    def begin(self, summary: Summary) -> None:
        """The job begins; the summary has the number of its shards, and is kept up to date."""

    def shard(self, outcome: Outcome) -> None:
        """The outcome of one shard is known; calls of this method and of `rows` never overlap."""

    def rows(self, count: int) -> None:
        """So many more rows were written."""

    def wait(self, busy: int) -> None:
        """Only shards are left on which other jobs work."""

    def close(self) -> None:
        """The job has ended, or was interrupted."""


def run_job(
    clip: Embedder,
    sources: Sources,
    part: tuple[int, int],
    folder: Folder,
    description: JobDescription,
    options: MakeOptions,
    reporter: Reporter,
    wait_seconds: float = _WAIT_SECONDS,
) -> Summary:
    """Make all shards of a part of the sources in this process.

    Shards on which another job works are looked at again at the end, until they are whole, or their job has ended and this one
    makes them. So several jobs with the same arguments share the work, and each ends when all of it is done.

    Args:
        clip: the loaded bundle.
        sources: the inputs.
        part: (i, n): which of n jobs this one is, from 0.
        folder: the output folder.
        description: the job's description, as it is in the folder.
        options: options of making shards.
        reporter: shows the course of the job.
        wait_seconds: longest time between two looks at shards of other jobs; the first times are shorter.

    Raises:
        EngineError: the engine failed, or the output cannot be written. What is finished stays; the same command goes on.
    """
    tally = Tally(sources, part, description.towers, reporter)
    leases = Leases(folder)
    try:
        maker = ShardMaker(clip, folder, description, options, leases)
        maker.make(sources.shards(part), tally.add, tally.rows)
        pause = min(_FIRST_WAIT_SECONDS, wait_seconds)
        while tally.busy:
            reporter.wait(len(tally.busy))
            time.sleep(pause)
            pause = min(2 * pause, wait_seconds)
            maker.make(tally.take_busy(), tally.add, tally.rows)
        if part[0] == 0:
            remove_outlived(sources, folder, description, options, tally.add)
    finally:
        leases.close()
    return tally.done()


class Tally:
    """Counts outcomes, which arrive from several threads, and passes them to a reporter."""

    def __init__(self, sources: Sources, part: tuple[int, int], towers: tuple[str, ...], reporter: Reporter) -> None:
        self._reporter, self._began = reporter, time.monotonic()
        self._lock = threading.Lock()
        self.summary = Summary(len(range(part[0], sources.count(), part[1])), missing=dict.fromkeys(towers, 0))
        self.busy: list[InputShard] = []
        reporter.begin(self.summary)

    def add(self, outcome: Outcome) -> None:
        """Count one outcome."""
        with self._lock:
            if outcome.status == "busy":
                self.busy.append(outcome.shard)
            else:
                self.summary.add(outcome)
            self.summary.seconds = time.monotonic() - self._began
            self._reporter.shard(outcome)

    def rows(self, count: int) -> None:
        """Pass a number of rows that were written to the reporter."""
        with self._lock:
            self._reporter.rows(count)

    def take_busy(self) -> Iterator[InputShard]:
        """The shards on which other jobs worked, which then do not count as busy any more."""
        busy, self.busy = self.busy, []
        return iter(busy)

    def done(self) -> Summary:
        """The summary at the end."""
        self.summary.seconds = time.monotonic() - self._began
        return self.summary


def remove_outlived(
    sources: Sources,
    folder: Folder,
    description: JobDescription,
    options: MakeOptions,
    report: Callable[[Outcome], None],
) -> None:
    """Remove shards behind the last one of a folder or a list with ``--replace-changed``; without it each is a failure.

    The folder or list was longer before, or its shards were shorter: their rows are in other shards now, or their inputs are gone.

    Args:
        sources: the inputs, after `Sources.count`.
        folder: the output folder.
        description: the job's description.
        options: options of making shards.
        report: gets the failures.
    """
    if not sources.cut_shards:
        return
    layout = description.make_layout()
    outlived: dict[str, str] = {}  # number of a shard to one of its files
    names = folder.names()
    for template in layout.names(f"{sources.cut_name}-\0"):
        before, after = template.split("\0")
        for name in names:
            number = name[len(before) : -len(after)]
            if f"{before}{number}{after}" != name or len(number) != 8 or not number.isdecimal():
                continue
            if int(number) >= sources.cut_shards:
                outlived.setdefault(number, name)
    for number, name in sorted(outlived.items()):
        shard = f"{sources.cut_name}-{number}"
        record: ShardRecord | None = None
        problem = None
        try:
            with contextlib.suppress(Damaged, NotThereError):
                record = layout.read_record(folder, shard)
        except NotOfAJob as error:
            problem = f"was written by no job ({error}), and is not removed: move it away"
        except InputError as error:
            problem = f"cannot be looked at ({error}), and is not removed"
        if record is not None and record.kind not in (
            "files",
            "lines",
        ):  # that of a tar or a parquet file with such a name
            continue
        if problem is None and options.replace_changed:
            layout.remove(folder, shard)
            continue
        words = "was made from an input that had more rows: pass --replace-changed to remove such shards"
        reason = f"{folder.url}/{name} {problem or words}"
        report(Outcome(InputShard(shard, "files", ""), "failed", reason=reason))
