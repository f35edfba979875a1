"""The output of a run: on a terminal the present step, and for every case a small table."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from benchmarks.records.rows import Row
    from benchmarks.workloads.inputs import Case

_WIDTH = 100


class Console:
    """Progress goes to stderr and only to a terminal; tables go to stdout."""

    def __init__(self, out: TextIO | None = None, progress: TextIO | None = None) -> None:
        self._out = out or sys.stdout
        self._progress = progress or sys.stderr
        self._live = self._progress.isatty()

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show `what` while the block runs; the function that is yielded adds detail."""
        self._show(what)
        try:
            yield lambda detail: self._show(f"{what}: {detail}")
        finally:
            self._show("")

    def problem(self, who: str, why: str) -> None:
        """Print why a contender cannot run."""
        print(f"  {who}: {why}", file=self._out, flush=True)

    def passed(self, case: Case, number: int, passes: int) -> None:
        """Print that a case's pass is done, and others follow."""
        print(
            f"  {case.tower}, batch {case.batch}, {case.shape}: pass {number + 1} of {passes}",
            file=self._out,
            flush=True,
        )

    def case(self, case: Case, found: Sequence[Row]) -> None:
        """Print the table of one case."""
        print(f"\n{case.tower}, batch {case.batch}, {case.shape}", file=self._out)
        by_engine: dict[tuple[str, str], dict[str, Row]] = {}
        for row in found:
            by_engine.setdefault((row.engine, row.precision), {})[row.figure] = row
        for (engine, precision), figures in by_engine.items():
            rate, faster, p50 = figures.get("per_second"), figures.get("speedup"), figures.get("p50")
            text = f"  {engine + ' ' + precision:<34}"
            if rate is not None and rate.value is not None:
                text += f"{rate.value:>10,.4g} {case.tower}s/s"
            if faster is not None and faster.value is not None:
                text += f"{faster.value:>9.2f} x"
            elif engine == "eager" and precision == "fp32":
                text += "        1    "
            if p50 is not None and p50.value is not None:
                text += f"{p50.value:>10.2f} ms"
            marked = [row for row in (faster or rate,) if row is not None and row.status == "noisy"]
            print(text + ("   ~noisy" if marked else ""), file=self._out)
        self._out.flush()

    def _show(self, text: str) -> None:
        if self._live:
            print(f"\r{text[:_WIDTH]:<{_WIDTH}}\r", end="", file=self._progress, flush=True)
