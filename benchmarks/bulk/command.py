"""Bulk jobs, ``python -m benchmarks bulk``: the same pictures by every way, and the cost of a job beside its engine."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks.bulk.inputs import write_inputs
from benchmarks.bulk.overhead import Overhead, measure_overhead
from benchmarks.bulk.search import SearchTime, measure_search, write_random
from benchmarks.bulk.ways import UnequalError, compare, run_way, ways
from benchmarks.harness.case_rows import row_of
from benchmarks.records import rows as rowfiles
from benchmarks.records.figures import FIGURES
from benchmarks.records.machine import stamp, this_machine, versions
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from engines.bulk.layouts import LayoutName
from engines.errors import EngineError
from engines.manifest import read_manifest
from engines.process.optional import import_or_reason


def main(argv: Sequence[str] | None = None) -> int:
    """Run all ways, measure, print, and merge the rows; exit code 1 where two ways differ."""
    args = _parser().parse_args(argv)
    place = args.folder or Path(tempfile.mkdtemp(prefix="bulk-"))
    try:
        if args.ways:
            _all_ways(args.bundle, place, args.ways)
        if args.overhead:
            rows = _overhead(args.bundle, place, args.overhead, args.rounds, args.side)
            machine = this_machine()
            rowfiles.merge(args.results or RESULTS / machine.slug, stamp(rows, machine))
        if args.search:
            machine = this_machine()
            rowfiles.merge(args.results or RESULTS / machine.slug, stamp(_search(place, args.search), machine))
    except (UnequalError, EngineError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        if args.folder is None:
            shutil.rmtree(place, ignore_errors=True)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks bulk", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="an exported bundle (not used by --search)")
    parser.add_argument("--ways", type=int, default=0, metavar="N", help="N pictures by every way, compared to the bit")
    parser.add_argument(
        "--overhead", type=int, default=0, metavar="N", help="a job of N pictures beside its engine alone"
    )
    parser.add_argument("--search", type=int, default=0, metavar="N", help="searches among N random embeddings")
    parser.add_argument("--side", type=int, default=256, help="pixels of the pictures' shorter side (default 256)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds of the overhead (default 5)")
    parser.add_argument("--folder", type=Path, help="keeps the inputs for the next call (default: a temporary folder)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    return parser


def _all_ways(bundle: Path, place: Path, count: int) -> None:
    inputs = write_inputs(place / f"inputs-{count}", count)
    first = None
    for way in ways(inputs, ray=not isinstance(import_or_reason("ray", "ray", ""), str)):
        out = place / "out"
        shutil.rmtree(out, ignore_errors=True)
        result = run_way(way, bundle, out)
        print(
            f"{way.name:<32} {len(result.rows):>7,} rows {len(result.errors):>4} errors {result.seconds:8.1f} s",
            flush=True,
        )
        if first is None:
            first = result
        compare(first, result)
    print("all equal to the bit")


def _overhead(bundle: Path, place: Path, count: int, rounds: int, side: int) -> list[Row]:
    inputs = write_inputs(place / f"inputs-{count}-{side}", count, side)
    measured = measure_overhead(bundle, inputs, place / "overhead", rounds)
    model = read_manifest(bundle)
    for found in measured:
        value = found.value
        print(
            f"{found.shape:<40} {value.value:7.3f} ({value.low:.3f} to {value.high:.3f}, {value.repeats} rounds)  {found.note}"
        )
    return [_row(model.model.name, model.precision, found) for found in measured]


def _search(place: Path, count: int) -> list[Row]:
    rows = []
    layouts: tuple[LayoutName, ...] = ("npy", "parquet")
    for layout in layouts:
        out = place / f"random-{count}-{layout}"
        write_random(out, count, layout)
        for found in measure_search(out, count, layout):
            unit = FIGURES[found.figure].unit
            print(
                f"{found.shape:<48} {found.figure:<5} {found.value.value:8.2f} {unit} (to {found.value.high:.2f})",
                flush=True,
            )
            rows.append(_search_row(found))
    return rows


def _search_row(found: SearchTime) -> Row:
    return row_of(
        found.figure,
        found.value,
        what="bulk",
        model="random",
        engine="search",
        shape=found.shape,
        versions=versions(("numpy", "pyarrow")),
    )


def _row(model: str, precision: str, found: Overhead) -> Row:
    return row_of(
        "time_over",
        found.value,
        what="bulk",
        model=model,
        tower="image",
        engine="onnxruntime",
        precision=precision,
        shape=found.shape,
        note=found.note,
        versions=versions(("onnxruntime", "pillow", "pyarrow")),
    )


if __name__ == "__main__":
    sys.exit(main())
