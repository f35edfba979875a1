"""The rounds over one tower's cases: its contenders stay loaded from case to case, are warmed up together, and take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.case_rows import Samples, case_rows, failure_row, start_rows
from benchmarks.crew import ContenderError, Member
from benchmarks.energy import read_joules
from benchmarks.worker import OpenedInfo, Prepared, calls_in_a_round

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.inputs import Case
    from benchmarks.rows import Row
    from benchmarks.run import Plan, Run

_STRIKES = 2  # a contender whose process died this often is not started again
OUT_OF_TIME = "out of time: start the same command again, and it goes on from here"
_T = TypeVar("_T")


class TowerRounds:
    """The cases of one tower: its contenders stay loaded from case to case."""

    def __init__(
        self,
        run: Run,
        plan: Plan,
        contenders: Sequence[Contender],
        tower: str,
        cases: Sequence[Case],
        todo: set[tuple[Contender, Case]],
        work: Path,
    ) -> None:
        self._run, self._plan, self._tower, self._cases, self._work = run, plan, tower, cases, work
        self._contenders, self._todo = contenders, todo
        self._members: dict[Contender, Member] = {}
        self._info: dict[Contender, OpenedInfo] = {}
        self._first: dict[Contender, Prepared] = {}
        self._strikes: dict[Contender, int] = {}

    def measure(self) -> None:
        """All cases, then what loading took."""
        try:
            for case in self._cases:
                waiting = [c for c in self._contenders if (c, case) in self._todo]
                if not waiting:
                    continue
                if self._run.late:
                    self._give_up(case, waiting)
                    continue
                if self._contenders[0] not in waiting and self._contenders[0] == self._plan.contenders[0]:
                    waiting.insert(0, self._contenders[0])  # no ratio without the baseline in the same rounds
                self._measure_case(case, waiting)
            if not self._plan.load_together:
                self._keep_start()
        finally:
            for member in self._members.values():
                member.close()

    def _give_up(self, case: Case, contenders: Sequence[Contender]) -> None:
        self._run.complete = False
        self._run.add([failure_row(self._plan.subject, c, case, "missing", OUT_OF_TIME) for c in contenders], "cpu")

    def _load(self, case: Case, contenders: Sequence[Contender]) -> None:
        """Load those that are not, side by side."""
        new = [c for c in contenders if c not in self._members]
        with ThreadPoolExecutor(max(1, len(new))) as pool:
            list(pool.map(lambda c: self._attempt(c, case, self._ready), new))

    def _measure_case(self, case: Case, contenders: Sequence[Contender]) -> None:
        console, subject = self._run.console, self._plan.subject
        if self._plan.load_together:
            with console.busy(f"{subject.name}: loading {len(contenders)} contenders"):
                self._load(case, contenders)
        with console.busy(f"{subject.name} {case.tower}, batch {case.batch}, {case.shape}") as tell:
            calls: dict[Contender, int] = {}
            for contender in contenders:
                tell(f"warming up {contender.label}")
                prepared = self._attempt(contender, case, lambda c: self._ready(c).prepare(case))
                if prepared is not None:
                    self._first.setdefault(contender, prepared)
                    calls[contender] = calls_in_a_round(prepared.call_seconds, self._plan.round_seconds)
            samples = {contender: Samples() for contender in calls}
            for turn in range(self._plan.rounds):
                tell(f"round {turn + 1} of {self._plan.rounds}")
                order = [c for c in contenders if c in samples]
                shift = turn % max(1, len(order))
                for contender in order[shift:] + order[:shift]:
                    if self._attempt(contender, case, lambda c: self._measure_round(c, case, calls, samples)) is None:
                        del samples[contender]
        found = case_rows(subject, case, samples, self._info, self._plan.contenders[0], self._run.folder)
        self._run.add(found, self._plan.device)
        console.case(case, found)

    def _measure_round(
        self, contender: Contender, case: Case, calls: dict[Contender, int], samples: dict[Contender, Samples]
    ) -> bool:
        member, count = self._members[contender], calls[contender]
        before = read_joules(self._plan.device)
        measured = member.measure(count, each=False)
        after = read_joules(self._plan.device)
        joules = after - before if before is not None and after is not None and after > before else None
        samples[contender].add(measured, joules)
        if case.batch == 1 and case.kind != "files":
            # On the CPU a round's calls are timed one by one anyway.
            each = measured if len(measured.seconds) == count else member.measure(count, each=True)
            samples[contender].latencies += each.seconds
        return True

    def _ready(self, contender: Contender) -> Member:
        """The contender's process with the tower loaded."""
        member = self._members.get(contender)
        if member is not None and member.alive:
            return member
        if self._strikes.get(contender, 0) >= _STRIKES:
            raise ContenderError("not started again: its process died before")
        if member is not None:
            member.close()
        self._members[contender] = member = Member(contender)
        self._info[contender] = member.open(self._plan.subject, self._tower, self._plan.device, self._work)
        return member

    def _attempt(self, contender: Contender, case: Case, do: Callable[[Contender], _T]) -> _T | None:
        """What `do` gives; a failure becomes the case's row, and the others go on."""
        try:
            return do(contender)
        except ContenderError as error:
            member = self._members.get(contender)
            if member is None or not member.alive:
                self._strikes[contender] = self._strikes.get(contender, 0) + 1
            self._run.add([failure_row(self._plan.subject, contender, case, "failed", str(error))], self._plan.device)
            self._run.console.problem(contender.label, str(error))
            return None

    def _keep_start(self) -> None:
        found: list[Row] = []
        for contender, member in self._members.items():
            if not member.alive or contender not in self._first:
                continue
            try:
                memory = member.memory()
            except ContenderError:
                continue  # it was alive a moment ago, and its cases have their rows
            info, first = self._info[contender], self._first[contender]
            found += start_rows(self._plan.subject, contender, self._tower, info, first, memory)
        self._run.add(found, self._plan.device)
