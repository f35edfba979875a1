"""A step of a suite in a process of its own: ``python -m benchmarks.suites.step ORDER``, where ORDER is a JSON file of an `Order`.

A process each, because one that has crashed on a GPU can compute nothing more there, and because what hangs or compiles for minutes
must end when the time is over. Rows are kept as soon as they are measured, so that an end at any moment loses only what is at work.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.bounded import run_bounded
from benchmarks.harness.keeper import Keeper, Order
from benchmarks.records.machine import Machine

if TYPE_CHECKING:
    from benchmarks.harness.run import Run

CHOICES = "choices.table"  # kernels/choices.csv among the rows; by that suffix it is not taken for a file of rows
_INCOMPLETE = 3  # exit code: there was no time for all of it


def run_step(
    run: Run, work: str, arguments: dict[str, Any], environment: Mapping[str, str] | None = None
) -> tuple[bool, str]:
    """Do a step in a child, which ends at `Run.end` at the latest.

    Args:
        run: the run that the step belongs to.
        work, arguments: fields of the step's `Order`.
        environment: variables besides those of this process.

    Returns:
        Whether the time was over before everything was measured, and how the child failed; empty if it did not.
    """
    run.refresh()
    order = Order(
        work, arguments, run.machine, run.folder.resolve(), run.commit, run.deadline or math.inf, tuple(run.done)
    )
    with tempfile.TemporaryDirectory(prefix="step-") as folder, tempfile.TemporaryFile() as log:
        path = Path(folder) / "order.json"
        path.write_text(json.dumps(dataclasses.asdict(order), default=str), encoding="utf-8")
        # Its temporary files are removed with the folder, however it ends.
        variables = {**(environment or {}), "TMPDIR": folder}
        code = run_bounded(
            [sys.executable, "-m", "benchmarks.suites.step", str(path)], run.end, stderr=log, environment=variables
        )
        log.seek(0)
        said = log.read().decode(errors="replace").strip().splitlines()
    run.refresh()
    if code is None or code == _INCOMPLETE:
        return True, ""
    if code == 0:
        return False, ""
    last = " ".join((said or ["it said nothing"])[-1].split())[:300]
    return False, f"its process ended with {f'exit code {code}' if code > 0 else f'signal {-code}'}: {last}"


def keep_kernels(
    keeper: Keeper,
    towers: Sequence[str],
    batches: Sequence[int],
    precision: str,
    ops: Sequence[str],
    choices: bool,
    rounds: int,
    missing: bool = False,
) -> bool:
    """Cases of `benchmarks.kernel_ops`; with `choices` the table of `kernels.choices` is kept among the rows, too."""
    from benchmarks import kernel_ops
    from kernels.choices import TABLE, merge, read

    copy = keeper.results / CHOICES
    if choices and keeper.goes_on and copy.exists():
        merge(read(copy))  # of the run that this one goes on with, maybe in another copy of the tree
    if choices:
        shutil.copyfile(TABLE, copy)
    _, enough = kernel_ops.run(
        towers,
        batches,
        precision,
        keeper.machine,
        keeper.results,
        rounds,
        ops=ops,
        choices=choices and keeper.device == "cuda",  # they are between kernels on a GPU
        choices_copy=copy if choices else None,
        missing=missing,
        deadline=keeper.deadline,
        is_done=keeper.is_done,
        run_commit=keeper.commit,
    )
    return enough


def main(argv: Sequence[str] | None = None) -> int:
    """Do the work of the order; an ImportError means that a bare image lacks a library, and costs a line."""
    (path,) = sys.argv[1:] if argv is None else argv
    given = json.loads(Path(path).read_text(encoding="utf-8"))
    order = Order(
        **given
        | {
            "machine": Machine(**given["machine"]),
            "results": Path(given["results"]),
            "done": tuple(tuple(case) for case in given["done"]),
        }
    )
    module, function = order.work.split(":")
    try:
        complete: bool = getattr(importlib.import_module(module), function)(Keeper(order), **order.arguments)
    except ImportError as error:
        print(f"  not installed: {error.name}", flush=True)
        return 0
    return 0 if complete else _INCOMPLETE


if __name__ == "__main__":
    sys.exit(main())
