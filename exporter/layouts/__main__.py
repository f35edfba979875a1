"""The command line: ``python -m exporter.layouts BUNDLE … --out DIR``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from engines.process.terminal import say, visible
from exporter.errors import ExportError
from exporter.requirements import run_command
from exporter.standard_output import print_answer, standard_output_is_ours


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter.layouts",
        description="Write finished bundles of one model as a folder that Optimum and transformers.js load.",
    )
    parser.add_argument(
        "bundles",
        nargs="+",
        type=Path,
        metavar="BUNDLE",
        help="bundles of one model in fp32, fp16 and int8, or some of these",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the folder to write")
    parser.add_argument("--force", action="store_true", help="replace a layout that is there")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 an error that a message describes."""
    args = build_parser().parse_args(argv)
    return run_command(lambda: _write(args))


def _write(args: argparse.Namespace) -> int:
    from exporter.layouts.transformers import write_layout

    with standard_output_is_ours():
        measurements = write_layout(
            args.bundles, args.out, force=args.force, note=lambda text: say(visible(text), sys.stderr)
        )
    lines = [str(args.out)]
    for item in measurements:
        errors = f"image {item.proof.image:.1e}, text {item.proof.text:.1e}"
        lines.append(f"  {item.proof.precision:<5} largest difference from engines on equal inputs: {errors}")
    for other in (*measurements[0].texts, *measurements[0].pictures):
        lines.append(f"  {other.what}: {other.equal} of {other.count} equal, lowest cosine {other.min_cosine:.6f}")
    if not measurements[0].pictures:
        lines.append(f"  image processors of transformers were not measured: {measurements[0].not_measured}")
    problem = print_answer("\n".join(map(visible, lines)))
    if problem is not None:
        raise ExportError(f"{args.out} is complete, but standard output does not take the report: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
