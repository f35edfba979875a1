"""Arguments and parts that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from engines.engine_kinds import KINDS
from engines.errors import InputError
from engines.inputs.image_files import describe_left_out
from engines.process.terminal import say
from engines.runtimes.choice import DEVICES


def add_engine_arguments(parser: argparse.ArgumentParser, engine_help: str = "auto (default)") -> None:
    """Add ``--engine`` and ``--device`` to a parser.

    Args:
        parser: a command's parser.
        engine_help: the values of ``--engine`` besides the names of engines, for the help text.
    """
    parser.add_argument("--engine", default="auto", metavar="NAME", help=f"{engine_help} or one of {', '.join(KINDS)}")
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: the GPU if there is one")


def add_max_pixels(parser: argparse.ArgumentParser) -> None:
    """Add ``--max-pixels`` to a parser, for commands that read image files."""
    parser.add_argument(
        "--max-pixels",
        type=int,
        metavar="N",
        help="largest width x height of a file that is read (default 178,956,970); larger ones are skipped",
    )


def load_options(args: argparse.Namespace) -> dict[str, Any]:
    """Arguments for `engines.load` besides bundle, engine and device.

    Raises:
        InputError: ``--max-pixels`` or ``--workers`` is below 1.
    """
    options: dict[str, Any] = {}
    if args.max_pixels is not None:
        if args.max_pixels < 1:
            raise InputError(f"--max-pixels {args.max_pixels} leaves no image: pass 1 or more")
        options["max_pixels"] = args.max_pixels
    if getattr(args, "decoder", None) is not None:
        options["decoder"] = args.decoder
    if getattr(args, "fast_decode", False):
        options["fast_decode"] = True
    if getattr(args, "workers", None) is not None:
        if args.workers < 1:
            raise InputError(f"--workers {args.workers} leaves no thread: pass 1 or more")
        options["workers"] = args.workers
    return options


def tell_left_out(left_out: Mapping[str, int]) -> None:
    """Print one line on standard error about the files of folders that were left out; nothing where there are none."""
    if left_out:
        say(describe_left_out(left_out), sys.stderr)
