"""Every engine of a bundle against eager PyTorch and the peers: ``python -m benchmarks throughput BUNDLE``.

All contenders of a case are warm at the same time, and then take turns: round after round, each one runs as many calls as fill a
round, in an order that rotates. The rounds are divided over passes over all cases, each with fresh processes. A speedup is the
median of the ratios to eager float32 in the same round, so that what slows the machine down slows both. Inputs alternate between
calls. On a GPU, calls are timed by device events; latency, one item at a time, is the host's time from call to result.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.contenders import MODULES, contenders_of
from benchmarks.harness.plan import Plan, UserError
from benchmarks.harness.run import Run
from benchmarks.records.machine import this_machine
from benchmarks.records.results import RESULTS
from benchmarks.workloads.inputs import Case, files_case, image_case, text_case
from benchmarks.workloads.subject import Subject, subject_of_bundle, subject_of_model

_BATCHES = (1, 4, 16, 64)
_END_TO_END_BATCH, _END_TO_END_FILES = 32, 96


def make_cases(
    subject: Subject,
    towers: Sequence[str],
    batches: Sequence[int],
    texts: Sequence[str],
    files: int,
    pictures: Path | None,
) -> Callable[[Path], list[Case]]:
    """A function that writes a sweep's inputs into a folder: images, captions of real and of full length, and files end to end."""

    def cases(folder: Path) -> list[Case]:
        found = []
        if "image" in towers:
            found += [image_case(folder, subject, batch) for batch in batches]
        if "text" in towers:
            found += [text_case(folder, subject, batch, kind == "full") for kind in texts for batch in batches]
        if "image" in towers and files:
            found.append(files_case(folder, _END_TO_END_BATCH, files, pictures))
        return found

    return cases


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one bundle or model."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks throughput", description=__doc__.splitlines()[0])
    parser.add_argument("subject", metavar="BUNDLE", help="a bundle, or an architecture (random weights; no engines)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--towers", help="image,text (default: those that the bundle has), image or text")
    parser.add_argument("--batches", default=",".join(map(str, _BATCHES)), help="default 1,4,16,64")
    parser.add_argument("--texts", default="real,full", help="captions of 8 to 25 ids, rows full of ids, or both")
    known = ", ".join(MODULES)
    parser.add_argument(
        "--contenders", default="", help=f"comma-separated; default all: {known}, and the bundle's engines"
    )
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds of each case, at least (default 9)")
    parser.add_argument(
        "--round-seconds",
        type=float,
        default=0.05,
        help="a contender's share of a round (default 0.05); a warm-up takes at most 100 of them, and at most 5 s",
    )
    parser.add_argument(
        "--case-seconds",
        type=float,
        default=4.0,
        help="seconds of a case in each pass, which short rounds fill (default 4)",
    )
    parser.add_argument(
        "--passes", type=int, default=3, help="number of passes over which the rounds are divided (default 3)"
    )
    parser.add_argument("--files", type=Path, help="a folder of pictures for the run from files to embeddings")
    parser.add_argument("--no-files", action="store_true", help="leave out the run from files to embeddings")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    parser.add_argument("--commit", help="of the code, for the rows, where there is no repository (default: git's)")
    parser.add_argument("--again", action="store_true", help="measure anew what an interrupted run has measured")
    args = parser.parse_args(argv)
    try:
        device = pick_device(args.device)
        subject = find_subject(args.subject)
        wanted = [name.strip() for name in args.contenders.split(",") if name.strip()]
        plan = Plan(
            subject=subject,
            contenders=tuple(contenders_of(subject, device, wanted)),
            cases=make_cases(
                subject,
                _names(args.towers, subject.towers, "tower") if args.towers else subject.towers,
                _numbers(args.batches),
                _names(args.texts, ("real", "full"), "kind of text"),
                0 if args.no_files else _END_TO_END_FILES,
                args.files,
            ),
            device=device,
            rounds=args.rounds,
            round_seconds=args.round_seconds,
            case_seconds=args.case_seconds,
            passes=args.passes,
        )
        machine = this_machine(device)
        results = args.results or RESULTS / machine.slug
        run = Run(results, machine, f"throughput {args.subject}", again=args.again, commit=args.commit)
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            run.measure(plan, Path(folder))
        run.finish()
        print(f"rows: {run.folder}/")
    except OSError as error:
        print(f"error: cannot write rows or work files: {error}", file=sys.stderr)
        return 1
    except (UserError, ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: what was measured is kept; the same command goes on from there", file=sys.stderr)
        return 130
    return 0


def pick_device(name: str) -> str:
    """``auto`` is the GPU where PyTorch sees one."""
    if name != "auto":
        return name
    from engines.device.gpu import gpu_missing

    return "cpu" if gpu_missing() is not None else "cuda"


def find_subject(name: str) -> Subject:
    """A bundle's folder or an architecture.

    Raises:
        UserError: it is neither, or the bundle is damaged.
    """
    if Path(name).exists():
        from engines.errors import EngineError

        try:
            return subject_of_bundle(Path(name))
        except EngineError as error:
            raise UserError(str(error)) from error
    try:
        return subject_of_model(name)
    except ValueError as error:
        raise UserError(f"{name} is neither a bundle's folder nor an architecture: {error}") from error


def _names(text: str, known: Sequence[str], what: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    wrong = [name for name in names if name not in known]
    if wrong:
        raise UserError(f"{what} {wrong[0]!r} is none of {', '.join(known)}")
    return names


def _numbers(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) for part in parts):
        raise UserError(f"--batches {text!r} is no list of numbers from 1 on, as in 1,16,64")
    return [int(part) for part in parts]
