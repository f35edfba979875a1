"""The Python runtime against the C++ library on one bundle, in turns: ``python -m benchmarks cpp``.

Image files and texts become embeddings, with 1, 2 and 8 threads that call at once; then starts of fresh processes, and their
memory. Both languages do it in processes of their own, of which ``oce-bench`` (``make cpp``) is the one in C++.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cpp_library import rows as cpp_rows
from benchmarks.cpp_library.measurement import Calls, measure_pass, measure_starts
from benchmarks.cpp_library.side import Order, SideError, commands
from benchmarks.records import rows as rowfiles
from benchmarks.records.machine import Machine, stamp, this_machine
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from benchmarks.workloads.inputs import files_case
from benchmarks.workloads.subject import Subject, subject_of_bundle
from engines.engine_kinds import KINDS
from engines.errors import BundleError
from engines.process.optional import import_or_reason

ENGINES = ("onnxruntime", "openvino")
_CALLERS = (1, 2, 8)


class _SorryError(Exception):
    """Something that the user can mend; the message is one sentence."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and merge the rows; exit code 1 where nothing could be measured."""
    args = _parser().parse_args(argv)
    machine = this_machine()
    try:
        if not args.program.is_file():
            raise _SorryError(f"{args.program} is not there: build it with `make cpp`, or pass --program")
        if min(args.images, args.texts) < max(args.callers) or min(args.callers) < 1:
            raise _SorryError(
                "every caller needs an image and a text: pass more --images and --texts, or fewer --callers"
            )
        with tempfile.TemporaryDirectory(prefix="cpp-") as name:
            folder = Path(name)
            found = _measure(args, args.bundle or _export(args, folder / "bundle"), folder, machine)
    except (_SorryError, SideError, BundleError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rowfiles.merge(args.results or RESULTS / machine.slug, found)
    return 0 if any(row.value is not None for row in found) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks cpp", description=__doc__.splitlines()[0])
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", default="demo", help="demo (default), or an architecture, with random weights")
    model.add_argument("--bundle", type=Path, help="measure this bundle, and export none")
    parser.add_argument(
        "--engine", action="append", choices=ENGINES, help=f"repeatable (default: {' and '.join(ENGINES)})"
    )
    parser.add_argument(
        "--program", type=Path, default=Path("build/oce-bench"), help="the program in C++ (default build/oce-bench)"
    )
    parser.add_argument(
        "--callers", type=int, nargs="+", default=list(_CALLERS), help="threads that call at once (default 1 2 8)"
    )
    parser.add_argument("--images", type=int, default=64, help="image files in a call of all callers (default 64)")
    parser.add_argument("--texts", type=int, default=256, help="texts in a call of all callers (default 256)")
    parser.add_argument("--rounds", type=int, default=5, help="in a pass (default 5)")
    parser.add_argument("--passes", type=int, default=3, help="each with fresh processes (default 3)")
    parser.add_argument("--starts", type=int, default=7, help="fresh processes for start and memory (default 7)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    return parser


def _export(args: argparse.Namespace, out: Path) -> Path:
    """A bundle of the model, with those engines whose libraries are installed."""
    command = [sys.executable, "-m", "exporter", args.model, "--out", str(out)]
    command += [] if args.model == "demo" else ["--pretrained", "none"]
    for engine in args.engine or ENGINES:
        if _why_not(engine) is None:
            command += ["--engine", engine]
    if subprocess.run(command, check=False, stdout=subprocess.DEVNULL).returncode:
        raise _SorryError(f"{args.model} could not be exported")
    return out


def _why_not(engine: str) -> str | None:
    kind = KINDS[engine]
    library = import_or_reason(kind.library, kind.library, kind.install_command)
    return library if isinstance(library, str) else None


def _measure(args: argparse.Namespace, bundle: Path, folder: Path, machine: Machine) -> list[Row]:
    """All rows; each is printed when it is known."""
    subject = subject_of_bundle(bundle)
    orders, first_text, first_image = _orders(args, folder)
    found: list[Row] = []

    def keep(new: list[Row]) -> None:
        found.extend(stamp(new, machine))
        for row in new:
            print(_line(row), flush=True)

    places: dict[str, cpp_rows.Place] = {}
    versions: dict[str, dict[str, str]] = {}
    for engine in args.engine or ENGINES:
        place = cpp_rows.Place(subject.name, engine, subject.precision, _weights(subject))
        try:
            starts, described = measure_starts(
                commands(bundle, engine, args.program), first_text, first_image, args.starts
            )
        except SideError as error:
            keep([cpp_rows.missing_row(place, str(error))])
            continue
        places[engine] = place
        versions[engine] = {language: _library(text) for language, text in described.items()}
        keep(cpp_rows.start_rows(place, starts, versions[engine]))
    calls: dict[str, dict[tuple[Order, str], Calls]] = {engine: {} for engine in places}
    for number in range(args.passes):
        for engine in places:
            print(f"pass {number + 1} of {args.passes}, {engine}", file=sys.stderr, flush=True)
            measure_pass(commands(bundle, engine, args.program), orders, number, args.rounds, calls[engine])
    for engine, place in places.items():
        keep(cpp_rows.call_rows(place, calls[engine], versions[engine]))
    return found


def _orders(args: argparse.Namespace, folder: Path) -> tuple[list[Order], Order, Order]:
    """The calls that are measured, and a call with one text and one with one image."""
    from exporter.reference.parity_data import prompt_captions

    def write(name: str, items: Sequence[str]) -> Path:
        path = folder / name
        path.write_text("".join(f"{item}\n" for item in items), encoding="utf-8")
        return path

    images, texts = files_case(folder, args.images, args.images).load(), prompt_captions(args.texts)
    files = {"images": write("images.txt", images), "texts": write("texts.txt", texts)}
    orders = [Order(what, callers, file) for what, file in files.items() for callers in args.callers]
    first_text = Order("texts", 1, write("text.txt", texts[:1]))
    return orders, first_text, Order("images", 1, write("image.txt", images[:1]))


def _weights(subject: Subject) -> str:
    return "random" if subject.pretrained == "none" else subject.pretrained or subject.source


def _library(description: str) -> str:
    """ "onnxruntime 1.32.0", of "onnxruntime 1.32.0 CPUExecutionProvider"."""
    match = re.match(r"\S+ \d[\w.]*", description)
    return match[0] if match else description


def _line(row: Row) -> str:
    where = f"{row.model:<10} {row.engine:<16} {row.tower:<5} {row.shape:<19} {row.figure:<16}"
    return (
        f"{where} {row.status}: {row.note}"
        if row.value is None
        else f"{where} {row.value:>8.4g} {row.unit:<3} {row.status}"
    )


if __name__ == "__main__":
    sys.exit(main())
