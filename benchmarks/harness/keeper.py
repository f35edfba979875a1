"""The order of a suite's step, and the keeper of its rows. `benchmarks.suites.step` runs a step in a process of its own."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.records import rows as rowfiles
from benchmarks.records.machine import Machine, clock_mhz, stamp
from benchmarks.records.rows import Row


@dataclass(frozen=True)
class Order:
    """The work of a child process.

    Attributes:
        work: ``module:function``; it is called with a `Keeper` and `arguments`, and returns whether there was time for everything.
        arguments: the function's arguments by name, plain data.
        machine: the machine that computes.
        results: folder of the rows.
        commit: the code's commit.
        deadline: time of ``time.monotonic()``, which all processes of a machine share: nothing is begun after it.
        done: cases (`Row.case`) that need not be measured.
    """

    work: str
    arguments: dict[str, Any]
    machine: Machine
    results: Path
    commit: str
    deadline: float
    done: tuple[tuple[str, ...], ...]


class Keeper:
    """Writes a step's rows."""

    def __init__(self, order: Order) -> None:
        self.machine, self.results, self.commit = order.machine, order.results, order.commit
        self.device, self.deadline = order.machine.device, order.deadline
        self._done = frozenset(order.done)

    def add(self, rows: Sequence[Row]) -> list[Row]:
        """Keep rows that were measured just now; return them with machine, commit and date."""
        stamped = stamp(rows, self.machine, clock_mhz=clock_mhz(self.device), commit=self.commit)
        rowfiles.merge(self.results, stamped, whole_cases=True)
        return stamped

    @property
    def goes_on(self) -> bool:
        """Whether the run was interrupted before, and measured something then."""
        return bool(self._done)

    def is_done(self, case: tuple[str, ...]) -> bool:
        """Whether an interrupted run has measured a case (`Row.case`)."""
        return case in self._done

    @property
    def late(self) -> bool:
        """Whether nothing may be begun any more."""
        return time.monotonic() > self.deadline
