"""This project's engines against other libraries that serve CLIP, in turns: ``python -m benchmarks peers``.

Every contender embeds the same picture files and captions with the same weights, in a process of its own and as its users call
it. ``--prepare`` makes the peers' environments and all models first; it needs a package index, and no model hub.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cpp_library.side import SideError
from benchmarks.peers import environments
from benchmarks.peers.contenders import CONTENDERS, REFERENCE, TOWERS, Contender, chosen
from benchmarks.peers.inputs import write_inputs
from benchmarks.peers.measurement import Measured, measure, worker_command
from benchmarks.peers.models import failure_file, model_folder, prepare_model
from benchmarks.peers.rows import measured_rows
from benchmarks.records import rows as rowfiles
from benchmarks.records.machine import stamp, this_machine
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from benchmarks.workloads.subject import subject_of_bundle
from engines.errors import BundleError

_BATCHES = (1, 16)


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare, or measure, print, and merge the rows; exit code 1 where nothing could be measured."""
    args = _parser().parse_args(argv)
    try:
        contenders = chosen(args.only)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if args.prepare:
        return _prepare(args.model, contenders)
    if not (model_folder(args.model) / REFERENCE.folder).exists():
        words = "run `python -m benchmarks peers --prepare` first"
        print(f"error: the bundle of {args.model} is not there: {words}", file=sys.stderr)
        return 1
    machine = this_machine()
    try:
        with tempfile.TemporaryDirectory(prefix="peers-") as name:
            measured = _measure(args, contenders, Path(name))
    except (SideError, BundleError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    made = stamp(measured_rows(args.model, contenders, measured, args.threads), machine)
    for row in made:
        print(_line(row))
    rowfiles.merge(args.results or RESULTS / machine.slug, made, whole_cases=True)
    return 0 if any(row.figure == "speedup" for row in made) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__.splitlines()[0])
    parser.add_argument("--prepare", action="store_true", help="make environments and models, and measure nothing")
    names = ", ".join(dict.fromkeys(contender.name for contender in CONTENDERS))
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"{names}; or with precision, as 'openvino int8'")
    parser.add_argument("--model", default="ViT-B-32", help="an architecture, with random weights, or demo")
    parser.add_argument("--rounds", type=int, default=12, help="over all cases (default 12)")
    parser.add_argument("--batches", type=int, nargs="+", default=list(_BATCHES), help="items in a call (default 1 16)")
    parser.add_argument("--threads", type=int, default=2, help="of each contender (default 2)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    return parser


def _prepare(model: str, contenders: Sequence[Contender]) -> int:
    """Make what is not there; a peer's failure is told, kept for its row, and no error of the command."""
    problems: dict[Contender, str | None] = {}
    for contender in contenders:
        problem = environments.prepare_environment(contender.environment) if contender.environment else None
        problems[contender] = problem or prepare_model(model, contender)
        print(f"{contender.label}: {problems[contender] or 'ready'}", flush=True)
    return 1 if problems[REFERENCE] is not None else 0


def _measure(args: argparse.Namespace, contenders: Sequence[Contender], folder: Path) -> Measured:
    place = model_folder(args.model)
    reasons = {contender: _why_not(args.model, contender) for contender in contenders}
    commands = {c: worker_command(c, place, args.threads) for c in contenders if reasons[c] is None}
    inputs = write_inputs(folder, subject_of_bundle(place / REFERENCE.folder).size, args.batches)
    measured = measure(commands, inputs, folder, args.rounds, lambda words: print(words, file=sys.stderr, flush=True))
    for contender, reason in reasons.items():
        if reason is not None:
            own = {tower: contender.lacks.get(tower, reason) for tower in TOWERS}
            measured.failures |= {(contender, tower): words for tower, words in own.items()}
    return measured


def _why_not(model: str, contender: Contender) -> str | None:
    reason = environments.why_not(contender.environment)
    if reason is None and not (model_folder(model) / contender.folder).exists():
        failed = failure_file(model, contender)
        if failed.exists():
            return failed.read_text(encoding="utf-8")
        return "its model is not there: run `python -m benchmarks peers --prepare`"
    return reason


def _line(row: Row) -> str:
    where = f"{row.engine:<32} {row.precision:<5} {row.tower:<6} {row.batch:>3} {row.figure:<14}"
    if row.value is None:
        return f"{where} {row.status}: {row.note}"
    return f"{where} {row.value:>8.4g} {row.unit:<3} {row.status}"


if __name__ == "__main__":
    sys.exit(main())
