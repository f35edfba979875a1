"""Arguments and parts that several commands share."""

from __future__ import annotations

import argparse

from engines.runtime import DEVICES, RUNTIMES


def add_engine_arguments(parser: argparse.ArgumentParser, engine_help: str = "auto (default)") -> None:
    """``--engine`` and ``--device``.

    Args:
        parser: of a command.
        engine_help: what ``--engine`` takes besides the names of engines.
    """
    parser.add_argument(
        "--engine", default="auto", metavar="NAME", help=f"{engine_help} or one of {', '.join(RUNTIMES)}"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: the GPU if there is one")
