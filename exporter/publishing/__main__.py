"""The command ``python -m exporter.publishing BUNDLE ORG/NAME``: it uploads a finished bundle to the Hugging Face hub."""

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
        prog="python -m exporter.publishing",
        description="Check a bundle and upload it to the Hugging Face hub, with a model card, in one commit.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", type=Path, help="the bundle's folder")
    parser.add_argument("repository", metavar="ORG/NAME", help="the repository, which is made if it is not there")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument(
        "--revision", metavar="BRANCH", help="a branch, which is made if it is not there (default: main)"
    )
    parser.add_argument(
        "--card", action="store_true", help="check the bundle and print its model card; nothing is sent"
    )
    args = parser.parse_args(argv)
    return run_command(lambda: _run(args), ())


def _run(args: argparse.Namespace) -> int:
    from exporter.publishing.card import model_card
    from exporter.publishing.push import check_name, checked_manifest, format_pushed, push_bundle

    if args.card:
        check_name(args.repository)
        problem = print_answer(model_card(checked_manifest(args.bundle), args.repository, args.revision).rstrip("\n"))
    else:
        with standard_output_is_ours():
            pushed = push_bundle(args.bundle, args.repository, args.private, args.revision)
        problem = print_answer(format_pushed(pushed, args.repository))
    if problem is not None:
        raise ExportError(f"standard output does not take the answer: {problem}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
