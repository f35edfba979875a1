"""Arguments and parts that several commands share."""

from __future__ import annotations

import argparse

from engines.runtime import DEVICES, RUNTIMES


def add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    """``--engine`` and ``--device``."""
    parser.add_argument(
        "--engine", default="auto", metavar="NAME", help=f"auto (default) or one of {', '.join(RUNTIMES)}"
    )
    parser.add_argument("--device", default="auto", choices=DEVICES, help="default: the GPU if there is one")
