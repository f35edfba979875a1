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
from benchmarks.harness.process import OUT_OF_TIME, ContenderError, ContenderProcess, MissingError, OutOfTimeError
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
        """Measure nothing yet.

        Args:
            run: the journal of samples and rows.
            plan: the model, contenders and cases.
            contenders: the contenders, the baseline first, without those that are known not to run here. One that is not in
                `Journal.usable` is checked in its own process, before it loads its first tower.
            pairs: each contender with each of its cases.
            work: the folder of inputs and plain exports.
        """
        self._run, self._plan, self._contenders, self._work = run, plan, contenders, work
        self._pairs = [pair for pair in pairs if pair[0] in contenders]
        self._failed: set[Pair] = set()
        self._strikes: dict[Contender, int] = {}

    def measure(self, number: int) -> None:
        """Measure one pass, the first is 0: the cases that have no samples of it."""
        samples = self._run.samples
        todo = [
            p for p in self._pairs if p not in self._failed and number not in samples.of(key_of(self._plan.subject, *p))
        ]
        one = _Pass(self._run, self._plan, number, self._work, self._pairs, self._failed, self._strikes)
        cases = list(dict.fromkeys(case for _, case in todo))
        try:
            for tower in dict.fromkeys(case.tower for case in cases):
                for case in [case for case in cases if case.tower == tower]:
                    # One that cannot run has become known in this pass.
                    waiting = [c for c in self._contenders if (c, case) in todo and (c, case) not in self._failed]
                    baseline = self._contenders[0]
                    if baseline not in waiting and not self._run.late:
                        # The baseline has been measured: it is not measured again for one that cannot run.
                        waiting = one.able_to_run(case, waiting)
                    if not waiting:
                        continue
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
        """Leave a case out for lack of time; after two passes its noise is known, and its rows are shown."""
        keys = [key_of(self._plan.subject, c, case) for c in contenders]
        if all(len(self._run.samples.of(key)) >= ENOUGH_PASSES for key in keys):
            those = {key[1:] for key in keys}  # latencies, too
            by_key = {row.key: row for row in self._run.rows if row.case[1:] in those}
            self._run.console.case(case, list(by_key.values()))
            return
        self._run.complete = False
        new = [c for c in contenders if not self._run.samples.of(key_of(self._plan.subject, c, case))]
        self._run.add([failure_row(self._plan.subject, c, case, "missing", OUT_OF_TIME) for c in new], "cpu")


class _Pass:
    """The processes of one pass.

    In the first pass, each tower has processes of its own, loaded one after the other: the cost of loading and the memory are rows.
    Later passes save time: a process loads one tower after the other, and all load side by side.
    """

    def __init__(
        self,
        run: Journal,
        plan: Plan,
        number: int,
        work: Path,
        pairs: Sequence[Pair],
        failed: set[Pair],
        strikes: dict[Contender, int],
    ) -> None:
        self._run, self._plan, self._number, self._work = run, plan, number, work
        self._pairs, self._failed, self._strikes = pairs, failed, strikes
        self._processes: dict[Contender, ContenderProcess] = {}
        self._towers: dict[Contender, str] = {}  # the tower that is loaded
        self._info: dict[Contender, OpenedInfo] = {}
        self._first: dict[Contender, Prepared] = {}

    def close(self) -> None:
        """End the processes."""
        while self._processes:
            self._processes.popitem()[1].close()
        self._towers.clear()
        self._first.clear()

    def able_to_run(self, case: Case, contenders: Sequence[Contender]) -> list[Contender]:
        """The contenders that can run here; the others get their rows."""
        for contender in contenders:
            self._attempt(contender, case, self._checked)
        return [c for c in contenders if (c, case) not in self._failed]

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
        """Keep the time that loading the tower took, and the memory after all its cases."""
        rows: list[Row] = []
        for contender, process in self._processes.items():
            if self._plan.load_together or not process.alive or contender not in self._first:
                continue
            try:
                memory = process.memory()
            except ContenderError:
                continue  # it was alive a moment ago, and its cases have their rows
            info, first = self._info[contender], self._first[contender]
            rows += start_rows(self._plan.subject, contender, tower, info, first, memory)
        self._run.add(rows, self._plan.device)

    def _keep(self, case: Case, rounds: dict[Contender, Rounds]) -> None:
        """Write the samples, then the rows of all passes so far."""
        store, plan = self._run.samples, self._plan
        baseline = rounds.get(plan.contenders[0])
        for contender, measured in rounds.items():
            if baseline is not None and measured is not baseline:
                measured.baseline = list(baseline.seconds)
            store.add(key_of(plan.subject, contender, case), self._number, measured)
        samples = {contender: store.of(key_of(plan.subject, contender, case)) for contender in rounds}
        rows = case_rows(plan.subject, case, samples, self._info, self._run.folder)
        self._run.add(rows, plan.device)
        if self._number + 1 < plan.passes:
            self._run.console.passed(case, self._number, plan.passes)
        else:
            self._run.console.case(case, rows)

    def _load(self, case: Case, contenders: Sequence[Contender]) -> None:
        """Load the contenders that are not loaded, side by side."""
        new = [c for c in contenders if self._towers.get(c) != case.tower]
        with ThreadPoolExecutor(max(1, len(new))) as pool:
            try:
                list(pool.map(lambda c: self._attempt(c, case, lambda c: self._ready(c, case.tower)), new))
            except BaseException:  # Ctrl-C: the threads would wait for their answers first
                for process in list(self._processes.values()):
                    process.kill()
                raise

    def _measure_round(
        self, contender: Contender, case: Case, calls: dict[Contender, int], rounds: dict[Contender, Rounds]
    ) -> bool:
        process, count = self._processes[contender], calls[contender]
        before = read_joules(self._plan.device)
        measured = process.measure(count, each=False)
        after = read_joules(self._plan.device)
        joules = after - before if before is not None and after is not None and after > before else None
        rounds[contender].add(measured, joules)
        if case.batch == 1 and case.kind != "files":
            # On the CPU a round's calls are timed one by one anyway.
            each = measured if len(measured.seconds) == count else process.measure(count, each=True)
            rounds[contender].latencies += each.seconds
        process.rest()
        return True

    def _warm_up(self, contender: Contender, case: Case) -> Prepared:
        process = self._ready(contender, case.tower)
        prepared = process.prepare(case, self._plan.warm_up_seconds)
        process.rest()
        return prepared

    def _ready(self, contender: Contender, tower: str) -> ContenderProcess:
        """The contender's process with the tower loaded."""
        process = self._processes.get(contender)
        if process is not None and process.alive and self._towers.get(contender) == tower:
            return process
        process = self._checked(contender)
        self._towers.pop(contender, None)
        self._info[contender] = process.open(self._plan.subject, tower, self._plan.device, self._work)
        self._towers[contender] = tower
        return process

    def _checked(self, contender: Contender) -> ContenderProcess:
        """The contender's process, started if there is none, after a check that it can run here."""
        process = self._processes.get(contender)
        if self._strikes.get(contender, 0) >= _STRIKES:
            raise ContenderError("not started again: its process died before")
        if process is None or not process.alive:
            if process is not None:
                process.close()
            self._processes[contender] = process = ContenderProcess(
                contender, compiled=self._run.compiled, end=self._run.end
            )
            self._towers.pop(contender, None)
        if self._plan.place(contender) not in self._run.usable:
            reason = process.why_not(self._plan.subject, self._plan.device)
            if reason is not None:
                raise MissingError(reason)
            self._run.usable.add(self._plan.place(contender))
        return process

    def _attempt(self, contender: Contender, case: Case, do: Callable[[Contender], _T]) -> _T | None:
        """The result of `do`; a failure becomes the case's row, and the other contenders go on."""
        if (contender, case) in self._failed:
            return None
        try:
            return do(contender)
        except OutOfTimeError:
            self._out_of_time(contender, case)
            return None
        except MissingError as error:
            self._cannot_run(contender, str(error))
            return None
        except ContenderError as error:
            process = self._processes.get(contender)
            if process is None or not process.alive:
                self._strikes[contender] = self._strikes.get(contender, 0) + 1
            self._failed.add((contender, case))
            self._run.samples.drop(key_of(self._plan.subject, contender, case))
            self._run.add([failure_row(self._plan.subject, contender, case, "failed", str(error))], self._plan.device)
            self._run.console.problem(contender.label, str(error))
            return None

    def _cannot_run(self, contender: Contender, why: str) -> None:
        """Leave out all cases of a contender; the rows of earlier passes stay."""
        cases = [case for one, case in self._pairs if one == contender]
        self._failed.update((contender, case) for case in cases)
        self._processes.pop(contender).close()
        new = [case for case in cases if not self._run.samples.of(key_of(self._plan.subject, contender, case))]
        self._run.add([failure_row(self._plan.subject, contender, case, "missing", why) for case in new], "cpu")
        self._run.console.problem(contender.label, why)

    def _out_of_time(self, contender: Contender, case: Case) -> None:
        """Mark a case that the end of the time cut short: the rows of earlier passes stay."""
        self._run.complete = False
        self._failed.add((contender, case))
        if not self._run.samples.of(key_of(self._plan.subject, contender, case)):
            self._run.add([failure_row(self._plan.subject, contender, case, "missing", OUT_OF_TIME)], "cpu")
