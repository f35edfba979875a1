"""A run of the harness: contenders take turns over cases, and every case's rows are kept as soon as it is measured.

An interrupted run leaves a marker beside its rows; the same run at the same commit then skips the cases that it has.
"""

from __future__ import annotations

import datetime
import json
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import rows as rowfiles
from benchmarks.case_rows import failure_row, overhead_row
from benchmarks.console import Console
from benchmarks.contenders import Contender
from benchmarks.crew import ContenderError, hired
from benchmarks.inputs import Case
from benchmarks.machine import Machine, clock_mhz, stamp
from benchmarks.results_file import commit
from benchmarks.rounds import TowerRounds
from benchmarks.rows import Row
from benchmarks.subject import Subject

_NULL_CALLS = 500


class UserError(Exception):
    """Something the user can mend: one sentence, exit code 1."""


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        subject: the model.
        contenders: the baseline first.
        cases: writes the inputs into a folder and says what they are.
        device: ``cpu`` or ``cuda``.
        rounds: of each case.
        round_seconds: that a contender's calls fill in a round.
        only: which contender takes part in which case; the baseline takes part in all.
        load_together: load all contenders at the same time. Faster where there are many cores; what loading took is not kept then.
    """

    subject: Subject
    contenders: tuple[Contender, ...]
    cases: Callable[[Path], list[Case]]
    device: str
    rounds: int = 9
    round_seconds: float = 0.3
    only: Callable[[Contender, Case], bool] = lambda contender, case: True
    load_together: bool = False


class Run:
    """Measures plans one after the other into a folder of rows."""

    def __init__(
        self,
        folder: Path,
        machine: Machine,
        name: str,
        again: bool = False,
        console: Console | None = None,
        deadline: float | None = None,
    ) -> None:
        """Start, or go on where the run of that name was interrupted.

        Args:
            folder: of the rows.
            machine: that computes.
            name: of the run; runs of other names do not know its marker.
            again: forget what an interrupted run has measured.
            console: shows what goes on.
            deadline: of ``time.monotonic()``, after which no case is begun.
        """
        self.folder, self.machine, self.complete = folder, machine, True
        self.rows: list[Row] = []
        self.console = console or Console()
        self._marker = folder / f".unfinished-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.json"
        self._commit = commit()  # of the code that is loaded now
        self._started = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._done: set[tuple[str, ...]] = set()
        self._deadline, self._lock = deadline, threading.Lock()
        folder.mkdir(parents=True, exist_ok=True)
        if self._marker.exists() and not again:
            self._resume()
        self._marker.write_text(json.dumps({"commit": self._commit, "started": self._started}), encoding="utf-8")

    def finish(self) -> None:
        """If everything was measured, the next run starts anew."""
        if self.complete:
            self._marker.unlink(missing_ok=True)

    @property
    def late(self) -> bool:
        """Whether the deadline is over."""
        return self._deadline is not None and time.monotonic() > self._deadline

    def is_done(self, case: tuple[str, ...]) -> bool:
        """Whether the interrupted run has rows of a case (`Row.case`)."""
        return case in self._done

    def add(self, found: Sequence[Row], device: str) -> None:
        """Keep rows that were measured just now."""
        stamped = stamp(found, self.machine, clock_mhz=clock_mhz(device), commit=self._commit)
        with self._lock:  # contenders that are loaded side by side may fail at the same time
            rowfiles.merge(self.folder, stamped, whole_cases=True)
            self.rows += stamped

    def measure(self, plan: Plan, work: Path) -> None:
        """Measure a plan.

        Args:
            plan: what to measure.
            work: a temporary folder for inputs and plain exports.
        """
        cases = plan.cases(work)
        null = [c for c in plan.contenders if c.engine == "null"]
        crew = [c for c in plan.contenders if c.engine != "null"]
        baseline = plan.contenders[0]
        pairs = []
        for case in cases:
            others = [c for c in crew if c != baseline and c.takes(case) and plan.only(c, case)]
            if others or crew == [baseline]:  # a baseline alone says nothing, unless it is all that was asked for
                pairs += [(c, case) for c in (baseline, *others)]
        todo = {pair for pair in pairs if not self.is_done(_key(plan.subject, *pair))}
        if not todo:
            return
        for contender in null:
            self._measure_overhead(plan, contender, cases[0], work)
        usable = [c for c in crew if self._check(plan, c, [case for case in cases if (c, case) in todo], work)]
        for tower in dict.fromkeys(case.tower for case in cases):
            TowerRounds(self, plan, usable, tower, [c for c in cases if c.tower == tower], todo, work).measure()

    def _check(self, plan: Plan, contender: Contender, cases: Sequence[Case], work: Path) -> bool:
        """Whether a contender can run here; its files are made, in a process of its own."""
        if not cases:
            return False
        with self.console.busy(f"{plan.subject.name}: {contender.label}"), hired(contender) as member:
            try:
                reason = member.why_not(plan.subject, plan.device)
                if reason is None:
                    for tower in dict.fromkeys(case.tower for case in cases):
                        member.setup(plan.subject, tower, work)
            except ContenderError as error:
                self.add([failure_row(plan.subject, contender, case, "failed", str(error)) for case in cases], "cpu")
                self.console.problem(contender.label, str(error))
                return False
        if reason is not None:
            self.add([failure_row(plan.subject, contender, case, "missing", reason) for case in cases], "cpu")
            self.console.problem(contender.label, reason)
        return reason is None

    def _measure_overhead(self, plan: Plan, contender: Contender, case: Case, work: Path) -> None:
        with hired(contender) as member:
            member.open(plan.subject, case.tower, plan.device, work)
            member.prepare(case)
            rounds = [member.measure(_NULL_CALLS, each=False) for _ in range(plan.rounds)]
        self.add([overhead_row(plan.subject, rounds)], "cpu")

    def _resume(self) -> None:
        try:
            marker = json.loads(self._marker.read_text(encoding="utf-8"))
            same, started = marker["commit"] == self._commit, str(marker["started"])
        except (OSError, ValueError, KeyError):
            return
        if same:
            self._started = started
            kept = rowfiles.read(self.folder)
            self._done = {row.case for row in kept if row.date >= started and row.value is not None}


def _key(subject: Subject, contender: Contender, case: Case) -> tuple[str, ...]:
    return failure_row(subject, contender, case, "missing", "").case
