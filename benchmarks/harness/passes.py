"""Passes over the cases of one model: in each, every contender gets a fresh process, is warmed up, and they take turns.

The rounds of a case are divided over the passes, so that its figures hold what differs between processes and what drifts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from benchmarks.harness.case_rows import case_rows, failure_row, key_of, start_rows
from benchmarks.harness.energy import read_joules
from benchmarks.harness.process import OUT_OF_TIME, ContenderError, Member, OutOfTimeError
from benchmarks.harness.samples import Rounds
from benchmarks.harness.timing import rotated
from benchmarks.harness.worker import OpenedInfo, Prepared, calls_in_a_round

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.harness.journal import Journal
    from benchmarks.harness.plan import Plan
    from benchmarks.records.rows import Row
    from benchmarks.workloads.inputs import Case

ENOUGH_PASSES = 2
_STRIKES = 2  # a contender whose process died this often is not started again
_ENOUGH_ROUNDS = 3  # of a case that the end of the time cut short
_T = TypeVar("_T")
Pair = tuple["Contender", "Case"]


class Passes:
    """The passes of one plan."""

    def __init__(self, run: Journal, plan: Plan, contenders: Sequence[Contender], pairs: Sequence[Pair], work: Path):
        """Measures nothing yet.

        Args:
            run: that keeps samples and rows.
            plan: what to measure.
            contenders: that can run here, the baseline first if it can.
            pairs: which contender takes part in which case.
            work: the folder of inputs and plain exports.
        """
        self._run, self._plan, self._contenders, self._work = run, plan, contenders, work
        self._pairs = [pair for pair in pairs if pair[0] in contenders]
        self._failed: set[Pair] = set()
        self._strikes: dict[Contender, int] = {}

    def measure(self, number: int) -> None:
        """One pass, the first is 0: all cases that it has not been measured in."""
        kept = self._run.kept
        todo = [
            p for p in self._pairs if p not in self._failed and number not in kept.of(key_of(self._plan.subject, *p))
        ]
        one = _Pass(self._run, self._plan, number, self._work, self._failed, self._strikes)
        cases = list(dict.fromkeys(case for _, case in todo))
        try:
            for tower in dict.fromkeys(case.tower for case in cases):
                for case in [case for case in cases if case.tower == tower]:
                    waiting = [c for c in self._contenders if (c, case) in todo]
                    baseline = self._contenders[0]
                    if baseline == self._plan.contenders[0] and (baseline, case) not in self._failed:
                        # No ratio without the baseline in the same rounds.
                        waiting = [baseline, *(c for c in waiting if c != baseline)]
                    if self._run.late:
                        self._give_up(case, waiting)
                    else:
                        one.measure_case(case, waiting)
                if number == 0:
                    one.keep_start(tower)
                    one.close()
        finally:
            one.close()

    def _give_up(self, case: Case, contenders: Sequence[Contender]) -> None:
        """No time for the case; two passes are enough to know its noise, and what they found is shown."""
        keys = [key_of(self._plan.subject, c, case) for c in contenders]
        if all(len(self._run.kept.of(key)) >= ENOUGH_PASSES for key in keys):
            those = {key[1:] for key in keys}  # latencies, too
            found = {row.key: row for row in self._run.rows if row.case[1:] in those}
            self._run.console.case(case, list(found.values()))
            return
        self._run.complete = False
        new = [c for c in contenders if not self._run.kept.of(key_of(self._plan.subject, c, case))]
        self._run.add([failure_row(self._plan.subject, c, case, "missing", OUT_OF_TIME) for c in new], "cpu")


class _Pass:
    """The processes of one pass.

    In the first, each tower has processes of its own, loaded one after the other: what loading and memory cost is kept. Later ones
    save time: a process loads one tower after the other, and all load side by side.
    """

    def __init__(
        self, run: Journal, plan: Plan, number: int, work: Path, failed: set[Pair], strikes: dict[Contender, int]
    ) -> None:
        self._run, self._plan, self._number, self._work = run, plan, number, work
        self._failed, self._strikes = failed, strikes
        self._members: dict[Contender, Member] = {}
        self._towers: dict[Contender, str] = {}  # that is loaded
        self._info: dict[Contender, OpenedInfo] = {}
        self._first: dict[Contender, Prepared] = {}

    def close(self) -> None:
        """End the processes."""
        while self._members:
            self._members.popitem()[1].close()
        self._towers.clear()
        self._first.clear()

    def measure_case(self, case: Case, contenders: Sequence[Contender]) -> None:
        """The pass's share of a case's rounds, and the rows of all passes so far."""
        console, subject, plan = self._run.console, self._plan.subject, self._plan
        title = (
            f"{subject.name} {case.tower}, batch {case.batch}, {case.shape}, pass {self._number + 1} of {plan.passes}"
        )
        if plan.load_together or self._number > 0:
            with console.busy(f"{subject.name}: loading {len(contenders)} contenders"):
                self._load(case, contenders)
        with console.busy(title) as tell:
            calls: dict[Contender, int] = {}
            one = 0.0  # round's seconds
            for contender in contenders:
                tell(f"warming up {contender.label}")
                prepared = self._attempt(contender, case, lambda c: self._warm_up(c, case))
                if prepared is not None:
                    self._first.setdefault(contender, prepared)
                    calls[contender] = calls_in_a_round(prepared.call_seconds, plan.round_seconds)
                    one += calls[contender] * prepared.call_seconds
            rounds = {contender: Rounds() for contender in calls}
            count, whole = plan.rounds_of(self._number, one), 0
            for turn in range(count):
                if self._run.over:
                    break
                tell(f"round {turn + 1} of {count}")
                for contender in rotated([c for c in contenders if c in rounds], turn + self._number):
                    if self._attempt(contender, case, lambda c: self._measure_round(c, case, calls, rounds)) is None:
                        del rounds[contender]
                whole += 1
        if whole < min(count, _ENOUGH_ROUNDS):
            for contender in rounds:
                self._out_of_time(contender, case)
        else:
            self._keep(case, rounds)

    def keep_start(self, tower: str) -> None:
        """What loading the tower took, and the memory after all its cases."""
        found: list[Row] = []
        for contender, member in self._members.items():
            if self._plan.load_together or not member.alive or contender not in self._first:
                continue
            try:
                memory = member.memory()
            except ContenderError:
                continue  # it was alive a moment ago, and its cases have their rows
            info, first = self._info[contender], self._first[contender]
            found += start_rows(self._plan.subject, contender, tower, info, first, memory)
        self._run.add(found, self._plan.device)

    def _keep(self, case: Case, rounds: dict[Contender, Rounds]) -> None:
        """Samples first, then rows of all passes so far."""
        kept, plan = self._run.kept, self._plan
        baseline = rounds.get(plan.contenders[0])
        for contender, own in rounds.items():
            if baseline is not None and own is not baseline:
                own.baseline = list(baseline.seconds)
            kept.add(key_of(plan.subject, contender, case), self._number, own)
        samples = {contender: kept.of(key_of(plan.subject, contender, case)) for contender in rounds}
        found = case_rows(plan.subject, case, samples, self._info, self._run.folder)
        self._run.add(found, plan.device)
        if self._number + 1 < plan.passes:
            self._run.console.passed(case, self._number, plan.passes)
        else:
            self._run.console.case(case, found)

    def _load(self, case: Case, contenders: Sequence[Contender]) -> None:
        """Load those that are not, side by side."""
        new = [c for c in contenders if self._towers.get(c) != case.tower]
        with ThreadPoolExecutor(max(1, len(new))) as pool:
            try:
                list(pool.map(lambda c: self._attempt(c, case, lambda c: self._ready(c, case.tower)), new))
            except BaseException:  # Ctrl-C: the threads would wait for their answers first
                for member in list(self._members.values()):
                    member.kill()
                raise

    def _measure_round(
        self, contender: Contender, case: Case, calls: dict[Contender, int], rounds: dict[Contender, Rounds]
    ) -> bool:
        member, count = self._members[contender], calls[contender]
        before = read_joules(self._plan.device)
        measured = member.measure(count, each=False)
        after = read_joules(self._plan.device)
        joules = after - before if before is not None and after is not None and after > before else None
        rounds[contender].add(measured, joules)
        if case.batch == 1 and case.kind != "files":
            # On the CPU a round's calls are timed one by one anyway.
            each = measured if len(measured.seconds) == count else member.measure(count, each=True)
            rounds[contender].latencies += each.seconds
        member.rest()
        return True

    def _warm_up(self, contender: Contender, case: Case) -> Prepared:
        member = self._ready(contender, case.tower)
        prepared = member.prepare(case)
        member.rest()
        return prepared

    def _ready(self, contender: Contender, tower: str) -> Member:
        """The contender's process with the tower loaded."""
        member = self._members.get(contender)
        if member is not None and member.alive and self._towers.get(contender) == tower:
            return member
        if self._strikes.get(contender, 0) >= _STRIKES:
            raise ContenderError("not started again: its process died before")
        if member is None or not member.alive:
            if member is not None:
                member.close()
            self._members[contender] = member = Member(contender, compiled=self._run.compiled, end=self._run.end)
        self._towers.pop(contender, None)
        self._info[contender] = member.open(self._plan.subject, tower, self._plan.device, self._work)
        self._towers[contender] = tower
        return member

    def _attempt(self, contender: Contender, case: Case, do: Callable[[Contender], _T]) -> _T | None:
        """What `do` gives; a failure becomes the case's row, and the others go on."""
        if (contender, case) in self._failed:
            return None
        try:
            return do(contender)
        except OutOfTimeError:
            self._out_of_time(contender, case)
            return None
        except ContenderError as error:
            member = self._members.get(contender)
            if member is None or not member.alive:
                self._strikes[contender] = self._strikes.get(contender, 0) + 1
            self._failed.add((contender, case))
            self._run.kept.drop(key_of(self._plan.subject, contender, case))
            self._run.add([failure_row(self._plan.subject, contender, case, "failed", str(error))], self._plan.device)
            self._run.console.problem(contender.label, str(error))
            return None

    def _out_of_time(self, contender: Contender, case: Case) -> None:
        """The end of the time cut the case short: what earlier passes found of it stays."""
        self._run.complete = False
        self._failed.add((contender, case))
        if not self._run.kept.of(key_of(self._plan.subject, contender, case)):
            self._run.add([failure_row(self._plan.subject, contender, case, "missing", OUT_OF_TIME)], "cpu")
