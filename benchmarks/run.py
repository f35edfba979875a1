"""A run of the harness: contenders take turns over cases, and every case's rows are kept as soon as it is measured.

An interrupted run leaves a marker and its samples beside its rows; the same run at the same commit then goes on from there.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from benchmarks import rows as rowfiles
from benchmarks.case_rows import failure_row, overhead_row
from benchmarks.console import Console
from benchmarks.contenders import Contender
from benchmarks.crew import ContenderError, Member, OutOfTimeError, hired
from benchmarks.inputs import Case
from benchmarks.machine import Machine, clock_mhz, stamp
from benchmarks.results_file import commit as commit_here
from benchmarks.rounds import Passes, key_of
from benchmarks.rows import Row, Status
from benchmarks.samples import Kept
from benchmarks.subject import Subject

_NULL_CALLS = 500
_MOST_ROUNDS = 20  # in a pass


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
        rounds: of each case, over all passes, at least.
        round_seconds: that a contender's calls fill in a round. The shorter it is, the less the machine changes within a round.
        case_seconds: a case whose rounds are shorter gets as many as fill this time in a pass, all contenders together.
        only: which contender takes part in which case; the baseline takes part in all.
        load_together: load all contenders at the same time. Faster where there are many cores; what loading took is not kept then.
        passes: over all cases, each with fresh processes, that the rounds are divided over.
    """

    subject: Subject
    contenders: tuple[Contender, ...]
    cases: Callable[[Path], list[Case]]
    device: str
    rounds: int = 9
    round_seconds: float = 0.05
    case_seconds: float = 0.0
    only: Callable[[Contender, Case], bool] = lambda contender, case: True
    load_together: bool = False
    passes: int = 3

    def __post_init__(self) -> None:
        object.__setattr__(self, "passes", max(1, min(self.passes, self.rounds)))

    def rounds_of(self, number: int, seconds: float) -> int:
        """Rounds of a case in a pass.

        Args:
            number: of the pass; the first is 0.
            seconds: that one round takes.
        """
        least = self.rounds // self.passes + (number < self.rounds % self.passes)
        return max(least, min(_MOST_ROUNDS, int(self.case_seconds / max(seconds, 1e-7))))


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
        end: float | None = None,
        commit: str | None = None,
        compiled: Path | None = None,
    ) -> None:
        """Start, or go on where the run of that name was interrupted.

        Args:
            folder: of the rows.
            machine: that computes.
            name: of the run; runs of other names do not know its marker.
            again: forget what an interrupted run has measured.
            console: shows what goes on.
            deadline: of ``time.monotonic()``, after which no case is begun.
            end: likewise, after which nothing goes on: what is at work then is ended, and has no row.
            commit: of the code, for the rows; None asks git.
            compiled: folder in which PyTorch's compiler keeps what it made for later passes; None is one beside the rows.
        """
        self.folder, self.machine, self.complete = folder, machine, True
        self.rows: list[Row] = []
        self.console = console or Console()
        self._marker = folder / f".unfinished-{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.json"
        self.commit = commit_here() if commit is None else commit  # of the code that is loaded now
        self._started = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        self._done: set[tuple[str, ...]] = set()
        self.deadline, self.end, self._lock = deadline, end, threading.Lock()
        self._usable: set[tuple[Contender, str]] = set()  # peers that can run here, by device
        folder.mkdir(parents=True, exist_ok=True)
        self.kept, self.compiled = Kept(self._marker.with_suffix(".samples")), compiled or folder / ".compiled"
        if not self._marker.exists() or again or not self._resume():
            self.kept.remove()
        self._marker.write_text(json.dumps({"commit": self.commit, "started": self._started}), encoding="utf-8")

    def finish(self) -> None:
        """If everything was measured, the next run starts anew."""
        if self.complete:
            self._marker.unlink(missing_ok=True)
            self.kept.remove()

    @property
    def late(self) -> bool:
        """Whether the deadline is over."""
        return self.deadline is not None and time.monotonic() > self.deadline

    @property
    def over(self) -> bool:
        """Whether nothing may go on."""
        return self.end is not None and time.monotonic() > self.end

    def refresh(self) -> None:
        """Learn what children have measured since the run has started: they keep their rows themselves."""
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

    def measure(self, plan: Plan, work: Path) -> None:
        """All passes of a plan, one after the other.

        Args:
            plan: what to measure.
            work: a temporary folder for inputs and plain exports.
        """
        passes = self.prepare(plan, work)
        for number in range(plan.passes):
            passes.measure(number)

    def prepare(self, plan: Plan, work: Path) -> Passes:
        """Inputs, and who can run; what a call costs that does nothing. Passes over several plans may then take turns."""
        cases = plan.cases(work)
        crew = [c for c in plan.contenders if c.engine != "null"]
        baseline = plan.contenders[0]
        pairs: list[tuple[Contender, Case]] = []
        for case in cases:
            others = [c for c in crew if c != baseline and c.takes(case) and plan.only(c, case)]
            if others or crew == [baseline]:  # a baseline alone says nothing, unless it is all that was asked for
                pairs += [(c, case) for c in (baseline, *others)]
        todo = [p for p in pairs if len(self.kept.of(key_of(plan, *p))) < plan.passes]
        if not todo:
            return Passes(self, plan, [], [], work)
        for contender in plan.contenders:
            if contender.engine == "null":
                self._measure_overhead(plan, contender, cases[0], work)
        usable = self._check(plan, {c: [case for case in cases if (c, case) in todo] for c in crew}, work)
        return Passes(self, plan, usable, pairs, work)

    def _check(self, plan: Plan, cases: Mapping[Contender, Sequence[Case]], work: Path) -> list[Contender]:
        """Those that can run here; their files are made, each in a process of its own."""
        usable: list[Contender] = []
        subject, asked = plan.subject, [c for c in cases if cases[c]]
        with contextlib.ExitStack() as stack:
            members = {c: stack.enter_context(hired(c, self.end)) for c in asked}
            with self.console.busy(f"{subject.name}: asking {len(asked)} contenders"), ThreadPoolExecutor() as pool:
                reasons = [pool.submit(self._why_not, members[c], plan) for c in asked]
            for contender, answer in zip(asked, reasons, strict=True):
                status, reason = answer.result()
                if reason is None:  # one after the other: some share files
                    with self.console.busy(f"{subject.name}: {contender.label}"):
                        status, reason = self._setup(members[contender], subject, cases[contender], work)
                if reason is None:
                    usable.append(contender)
                    continue
                self.add([failure_row(subject, contender, case, status, reason) for case in cases[contender]], "cpu")
                self.console.problem(contender.label, reason)
        return usable

    def _why_not(self, member: Member, plan: Plan) -> tuple[Status, str | None]:
        """What the contender says; a peer that can run one model is not asked again for the next."""
        peer = (member.contender, plan.device)
        if peer in self._usable:
            return "missing", None
        try:
            reason = member.why_not(plan.subject, plan.device)
        except ContenderError as error:
            return self._failure(error)
        if reason is None and not member.contender.of_bundle:
            self._usable.add(peer)
        return "missing", reason

    def _setup(self, member: Member, subject: Subject, cases: Sequence[Case], work: Path) -> tuple[Status, str | None]:
        try:
            for tower in dict.fromkeys(case.tower for case in cases):
                member.setup(subject, tower, work)
        except ContenderError as error:
            return self._failure(error)
        return "missing", None

    def _failure(self, error: ContenderError) -> tuple[Status, str]:
        """It failed, or the time was over, which says nothing of the contender."""
        if isinstance(error, OutOfTimeError):
            self.complete = False
            return "missing", str(error)
        return "failed", str(error)

    def _measure_overhead(self, plan: Plan, contender: Contender, case: Case, work: Path) -> None:
        try:
            with hired(contender, self.end) as member:
                member.open(plan.subject, case.tower, plan.device, work)
                member.prepare(case)
                rounds = [member.measure(_NULL_CALLS, each=False) for _ in range(plan.rounds)]
        except OutOfTimeError:
            self.complete = False
            return
        self.add([overhead_row(plan.subject, rounds)], "cpu")

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
            self.kept.load()
        return bool(same)
