"""The command ``python -m exporter.layouts BUNDLE … --out DIR``: a layout for other programs, made from finished bundles."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from exporter.errors import ExportError
from exporter.requirements import run_command
from exporter.standard_output import print_answer, standard_output_is_ours


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 done, 1 an error that a message describes."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter.layouts",
        description="Lay finished bundles out for Optimum (onnxruntime) and transformers.js.",
    )
    parser.add_argument("bundles", metavar="BUNDLE", type=Path, nargs="+", help="bundles of one model, one a precision")
    parser.add_argument("--out", metavar="DIR", type=Path, required=True, help="the folder to make")
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), ("onnx", "onnxruntime"))


def _run(args: argparse.Namespace) -> int:
    from exporter.layouts.transformers import format_layout, write_layout

    with standard_output_is_ours():
        layout = write_layout(args.bundles, args.out)
    problem = print_answer(format_layout(layout))
    if problem is not None:
        raise ExportError(f"standard output does not take the answer: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
