"""The command ``python -m engines pull``: a bundle from the Hugging Face hub, with every checksum compared."""

from __future__ import annotations

import argparse
from pathlib import Path

from engines.engine_kinds import KINDS
from engines.files.json_text import json_text
from engines.hub.pull import pull_to_cache, pull_to_folder
from engines.hub.reference import parse_reference
from engines.process.terminal import say, visible


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("--out", metavar="DIR", help="a new folder (default: the Hugging Face cache, HF_HUB_CACHE)")
    parser.add_argument(
        "--engine",
        default="auto",
        metavar="NAME",
        help=f"leave out files that only other engines use: auto (default: all files) or one of {', '.join(KINDS)}",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Download the bundle and print where it is."""
    reference = parse_reference(args.bundle)
    if args.out is None:
        pulled = pull_to_cache(reference, args.engine)
    else:
        pulled = pull_to_folder(reference, Path(args.out), args.engine)
    if args.json:
        figures = {"files": len(pulled.files), "bytes": pulled.bytes}
        place = {"bundle": str(pulled.folder), "repository": reference.repository, "commit": pulled.commit}
        print(json_text({**place, **figures}))
        return 0
    size = f"{pulled.bytes / 1e6:.1f} MB in {len(pulled.files)} files; sizes and checksums are right"
    say(visible(f"{pulled.folder}  ({reference.repository} at {pulled.commit[:12]}; {size})"))
    return 0
