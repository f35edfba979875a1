"""The journal of a run: rows and samples on disk, so that an interrupted run goes on where it stopped.

An interrupted run leaves a marker and its samples beside its rows; the same run at the same commit then goes on from there.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.harness.console import Console
from benchmarks.harness.samples import SampleStore
from benchmarks.records import rows as rowfiles
from benchmarks.records.csv_file import commit as commit_here
from benchmarks.records.machine import Machine, clock_mhz, stamp
from benchmarks.records.rows import Row


class Journal:
    """The rows and samples of a run, kept as soon as they are measured, and the time that it has."""

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        name: str,
        again: bool = False,
        console: Console | None = None,
        deadline: float | None = None,
        end: float | None = None,
        commit: str | None = None,
        compiled: Path | None = None,
    ) -> None:
        """Start, or go on where the run of that name was interrupted.

        Args:
            folder: folder of the rows.
            machine: the machine that computes.
            name: the run's name; runs of other names do not read its marker.
            again: remove the samples of an interrupted run.
            console: shows the progress.
            deadline: time of ``time.monotonic()`` after which no case is begun; None: no such time.
            end: likewise, the time when cases at work are ended without a row.
            commit: the code's commit, for the rows; None: git's.
            compiled: folder of the cache of PyTorch's compiler for later passes; None is one beside the rows.
        """
        self.folder, self.machine, self.complete = folder, machine, True
        self.rows: list[Row] = []
        self.console = console or Console()
        self._marker = folder / f".unfinished-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.json"
        self.commit = commit_here() if commit is None else commit  # of the code that is loaded now
        self._started = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._done: set[tuple[str, ...]] = set()
        self.deadline, self.end, self._lock = deadline, end, threading.Lock()
        self.usable: set[tuple[Contender, str, str | None]] = set()  # `Plan.place` of contenders that can run here
        folder.mkdir(parents=True, exist_ok=True)
        self.samples, self.compiled = (
            SampleStore(self._marker.with_suffix(".samples")),
            compiled or folder / ".compiled",
        )
        if not self._marker.exists() or again or not self._resume():
            self.samples.remove()
        self._marker.write_text(json.dumps({"commit": self.commit, "started": self._started}), encoding="utf-8")

    def finish(self) -> None:
        """Remove the marker if everything was measured, so that the next run starts anew."""
        if self.complete:
            self._marker.unlink(missing_ok=True)
            self.samples.remove()

    @property
    def late(self) -> bool:
        """Whether the deadline is over."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def over(self) -> bool:
        """Whether the end has passed."""
        return self.end is not None and time.monotonic() > self.end

    def refresh(self) -> None:
        """Read the cases that children have measured since the run started: they keep their rows themselves."""
        self._done = {
            row.case for row in rowfiles.read(self.folder) if row.date >= self._started and row.value is not None
        }

    @property
    def done(self) -> frozenset[tuple[str, ...]]:
        """Cases (`Row.case`) of which the interrupted run has rows."""
        return frozenset(self._done)

    def is_done(self, case: tuple[str, ...]) -> bool:
        """Whether the interrupted run has rows of a case (`Row.case`)."""
        return case in self._done

    def add(self, found: Sequence[Row], device: str) -> None:
        """Keep rows that were measured just now."""
        stamped = stamp(found, self.machine, clock_mhz=clock_mhz(device), commit=self.commit)
        with self._lock:  # contenders that are loaded side by side may fail at the same time
            rowfiles.merge(self.folder, stamped, whole_cases=True)
            self.rows += stamped

    def _resume(self) -> bool:
        """Whether there is a run of the same commit to go on with."""
        try:
            marker = json.loads(self._marker.read_text(encoding="utf-8"))
            same, started = marker["commit"] == self.commit, str(marker["started"])
        except (OSError, ValueError, KeyError):
            return False
        if same:
            self._started = started
            self.refresh()
            self.samples.load()
        return bool(same)
