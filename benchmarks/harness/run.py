"""A run of the harness: contenders take turns over cases, and every case's rows are kept as soon as it is measured.

`benchmarks.harness.journal` keeps the rows, `benchmarks.harness.plan` says what is measured.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.contenders import Contender
from benchmarks.harness.case_rows import failure_row, key_of, overhead_row
from benchmarks.harness.journal import Journal
from benchmarks.harness.passes import Passes
from benchmarks.harness.plan import Plan
from benchmarks.harness.process import ContenderError, ContenderProcess, OutOfTimeError, started
from benchmarks.records.rows import Status
from benchmarks.workloads.inputs import Case
from benchmarks.workloads.subject import Subject

_NULL_CALLS = 500


class Run(Journal):
    """Measures plans one after the other into a folder of rows."""

    def measure(self, plan: Plan, work: Path) -> None:
        """All passes of a plan, one after the other.

        Args:
            plan: the model, contenders and cases.
            work: a temporary folder for inputs and plain exports.
        """
        passes = self.prepare(plan, work)
        for number in range(plan.passes):
            passes.measure(number)

    def prepare(self, plan: Plan, work: Path) -> Passes:
        """Write the inputs, make contenders' files, and time an empty call. Passes of several plans may take turns."""
        cases = plan.cases(work)
        runnable = [c for c in plan.contenders if c.engine != "null"]
        baseline = plan.contenders[0]
        pairs: list[tuple[Contender, Case]] = []
        for case in cases:
            others = [c for c in runnable if c != baseline and c.takes(case) and plan.only(c, case)]
            if others or runnable == [baseline]:  # a baseline alone says nothing, unless it is all that was asked for
                pairs += [(c, case) for c in (baseline, *others)]
        todo = [p for p in pairs if len(self.samples.of(key_of(plan.subject, *p))) < plan.passes]
        if not todo:
            return Passes(self, plan, [], [], work)
        for contender in plan.contenders:
            if contender.engine == "null":
                self._measure_overhead(plan, contender, cases[0], work)
        open_cases = {c: [case for case in cases if (c, case) in todo] for c in runnable}
        with_files = {c: cases for c, cases in open_cases.items() if cases and hasattr(c.module, "setup")}
        unusable = self._set_up(plan, with_files, work) if with_files else []
        return Passes(self, plan, [c for c in runnable if open_cases[c] and c not in unusable], pairs, work)

    def _set_up(self, plan: Plan, cases: Mapping[Contender, Sequence[Case]], work: Path) -> list[Contender]:
        """Make the files of contenders that need some, each in a process of its own; return those that cannot run here."""
        unusable: list[Contender] = []
        subject, checked = plan.subject, list(cases)
        with contextlib.ExitStack() as stack:
            processes = {c: stack.enter_context(started(c, self.end)) for c in checked}
            with self.console.busy(f"{subject.name}: checking {len(checked)} contenders"), ThreadPoolExecutor() as pool:
                reasons = [pool.submit(self._why_not, processes[c], plan) for c in checked]
            for contender, answer in zip(checked, reasons, strict=True):
                status, reason = answer.result()
                if reason is None:  # one after the other: some share files
                    with self.console.busy(f"{subject.name}: {contender.label}"):
                        status, reason = self._setup(processes[contender], subject, cases[contender], work)
                if reason is not None:
                    unusable.append(contender)
                    self.add(
                        [failure_row(subject, contender, case, status, reason) for case in cases[contender]], "cpu"
                    )
                    self.console.problem(contender.label, reason)
        return unusable

    def _why_not(self, process: ContenderProcess, plan: Plan) -> tuple[Status, str | None]:
        """The reason why a contender cannot run; a peer that can run one model is not checked again for the next."""
        if plan.place(process.contender) in self.usable:
            return "missing", None
        try:
            reason = process.why_not(plan.subject, plan.device)
        except ContenderError as error:
            return self._failure(error)
        if reason is None:
            self.usable.add(plan.place(process.contender))
        return "missing", reason

    def _setup(
        self, process: ContenderProcess, subject: Subject, cases: Sequence[Case], work: Path
    ) -> tuple[Status, str | None]:
        try:
            for tower in dict.fromkeys(case.tower for case in cases):
                process.setup(subject, tower, work)
        except ContenderError as error:
            return self._failure(error)
        return "missing", None

    def _failure(self, error: ContenderError) -> tuple[Status, str]:
        """The status of a contender that raised: failed, or missing where the time was over."""
        if isinstance(error, OutOfTimeError):
            self.complete = False
            return "missing", str(error)
        return "failed", str(error)

    def _measure_overhead(self, plan: Plan, contender: Contender, case: Case, work: Path) -> None:
        try:
            with started(contender, self.end) as process:
                process.open(plan.subject, case.tower, plan.device, work)
                process.prepare(case, plan.warm_up_seconds)
                rounds = [process.measure(_NULL_CALLS, each=False) for _ in range(plan.rounds)]
        except OutOfTimeError:
            self.complete = False
            return
        self.add([overhead_row(plan.subject, rounds)], "cpu")
