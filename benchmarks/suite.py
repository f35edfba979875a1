"""Fixed lists of models, engines and batches: ``make bench`` on a CPU, ``make gpu`` on a machine with a GPU.

A suite is made of named parts, which run one after the other until its minutes are over; started again, it goes on from there. On
a CPU, further passes over all models follow, so that each is measured several times, minutes apart: two at least, and a third one
where there is time. Each part needs only what it measures: on a bare PyTorch image with open_clip the engines' rows name the
missing library. Work that goes on when the minutes are over is ended, and finished rows stay. GPU.md shows its use on a GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness.bounded import interrupted_by_sigterm
from benchmarks.records.machine import gpu_problem, nvidia_smi, this_machine
from benchmarks.records.results import RESULTS
from benchmarks.suites.definitions import SUITES, Suite
from benchmarks.suites.stand_in import stand_in


def main(argv: Sequence[str] | None = None) -> int:
    """Run a suite; its rows go to a folder of their own machine."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks suite", description=__doc__.splitlines()[0])
    parser.add_argument("suite", choices=sorted(SUITES))
    parser.add_argument("--parts", help="comma-separated; default all, in order")
    parser.add_argument("--models", default="", help="comma-separated; default all")
    parser.add_argument("--minutes", type=float, help="after which everything is ended")
    parser.add_argument("--out", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    parser.add_argument("--commit", help="of the code, for the rows, where there is no repository (default: git's)")
    parser.add_argument(
        "--stand-in",
        action="store_true",
        help="try a GPU's suite on this CPU, at shapes so small that its figures say nothing",
    )
    parser.add_argument("--again", action="store_true", help="measure anew what an interrupted run has measured")
    args = parser.parse_args(argv)
    suite = SUITES[args.suite]
    if args.minutes is not None:
        suite = dataclasses.replace(suite, minutes=args.minutes)
    parts = args.parts.split(",") if args.parts else list(suite.parts)
    problem = _problem(suite, args.stand_in, args.out, parts)
    if problem is not None:
        print(f"error: {problem}", file=sys.stderr)
        return 1
    if args.stand_in:
        suite = stand_in(suite)
    # Only now, because a machine without a GPU needs nothing installed for that message.
    from benchmarks.harness.plan import UserError
    from benchmarks.suites.parts import run_suite

    results = args.out or RESULTS / this_machine(suite.device).slug / suite.folder
    models = [name for name in args.models.split(",") if name]
    with interrupted_by_sigterm() as terminated:
        try:
            # A command with other parts does not go on with this one's: its ceilings are of its own minutes.
            name = f"{args.suite} {args.parts}" if args.parts else args.suite
            complete = run_suite(
                suite, name, parts, models, results, args.again, args.commit, apart=args.out is not None
            )
        except OSError as error:
            print(f"error: cannot write rows or work files: {error}", file=sys.stderr)
            return 1
        except (UserError, RuntimeError) as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("\ninterrupted: what was measured is kept; the same command goes on from there", file=sys.stderr)
            return 128 + (signal.SIGTERM if terminated else signal.SIGINT)
    print(
        f"\nrows: {results}/"
        + ("" if complete else "  (not everything was measured: the same command goes on from there)")
    )
    return 0


def _problem(suite: Suite, stands_in: bool, out: Path | None, parts: Sequence[str]) -> str | None:
    """Why the suite cannot run here with these arguments; None if it can."""
    unknown = [part for part in parts if part not in suite.parts]
    if unknown:
        return f"part {unknown[0]!r} is none of {', '.join(suite.parts)}"
    if suite.minutes < 0:
        return f"--minutes {suite.minutes:g} is less than 0"
    if stands_in:
        if suite.device == "cpu":
            return "--stand-in is for the suite gpu: the others run on this CPU as they are"
        return "--stand-in needs --out: its rows are none of this machine's results" if out is None else None
    if suite.device == "cpu":
        return None
    if nvidia_smi("name") is None:
        return (
            "no NVIDIA GPU answers here (nvidia-smi is missing or fails): run this on a machine with one, or try the commands on "
            "this CPU with --stand-in --out FOLDER"
        )
    return gpu_problem()
