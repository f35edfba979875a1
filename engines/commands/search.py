"""The command ``python -m engines search``: find texts and pictures in a folder of embeddings, or hand it to a vector library."""

from __future__ import annotations

import argparse
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import engines
from engines.commands.common import add_engine_arguments
from engines.errors import InputError
from engines.files.json_text import json_text
from engines.hub.pull import local_bundle
from engines.manifest import TowerName
from engines.process.tables import format_table
from engines.process.terminal import columns, say, visible
from engines.search.hand_over import LIBRARIES, hand_over
from engines.search.index import Hit, search_files
from engines.search.job import check_bundle
from engines.search.shards import Shards
from engines.search.sheet import Query, write_sheet
from engines.search.storage import Folder

_NARROWEST = 60  # columns of a table where the terminal has fewer, or is a file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "out", metavar="OUT", help="a folder or URL that `python -m engines embed BUNDLE SOURCES --out OUT` wrote"
    )
    parser.add_argument("--text", action="append", default=[], metavar="TEXT", help="find what fits a text; repeatable")
    parser.add_argument(
        "--image",
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE",
        help="find what is like a picture; repeatable",
    )
    parser.add_argument("--top", type=int, default=20, metavar="K", help="number of hits for each query (default 20)")
    parser.add_argument(
        "--tower", choices=("image", "text"), help="the embeddings to search (default: the image tower's)"
    )
    parser.add_argument("--bundle", metavar="BUNDLE", help="the bundle, where it is no longer at the job's place")
    parser.add_argument("--html", metavar="FILE", help="also write a page with the pictures of the hits")
    parser.add_argument(
        "--to",
        nargs=2,
        metavar=("LIBRARY", "DEST"),
        help=f"write all embeddings for another library: {' or '.join(LIBRARIES)}, and a file or folder that is not there yet",
    )
    add_engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Search, and print a table for each query; or hand the embeddings over; or both."""
    if not (args.text or args.image or args.to):
        raise InputError("there is nothing to do: pass --text 'a red car', --image FILE, or --to LIBRARY DEST")
    if args.html and not (args.text or args.image):
        raise InputError("--html is a page of hits: pass --text or --image, too")
    if args.top < 1:
        raise InputError(f"--top {args.top} shows no hit: pass 1 or more")
    shards = Shards(Folder(args.out), args.tower)
    report: dict[str, Any] = {"out": args.out, "model": shards.job.model, "tower": shards.tower}
    if args.text or args.image:
        names = [("text", text) for text in args.text] + [("image", file) for file in args.image]
        queries = _embed(args, shards)
        hits, rows = search_files(shards, queries, args.top)
        answers = [Query(kind, name, found) for (kind, name), found in zip(names, hits, strict=True)]
        if args.html:
            about = f"{rows:,} embeddings of {shards.job.model} in {args.out}"
            write_sheet(Path(args.html), answers, about, shards.job.columns)
            report["html"] = args.html
        report |= {"rows": rows, "queries": [_plain(answer) for answer in answers]}
        if not args.json:
            _print(answers, rows, shards.tower)
    if args.to:
        library, place = args.to
        done = hand_over(shards, library, place)
        report["to"] = asdict(done)
        if not args.json:
            say(visible(f"{done.rows:,} embeddings: {', '.join(done.files)} ({done.what})"))
    if args.json:
        print(json_text(report))
    elif args.html:
        say(visible(f"the page: {args.html}"))
    return 0


def _embed(args: argparse.Namespace, shards: Shards) -> npt.NDArray[np.float32]:
    """Queries (Q, D): texts first, then pictures."""
    given = args.bundle is not None
    bundle = check_bundle(shards.job, local_bundle(args.bundle if given else shards.job.bundle, args.engine), given)
    towers: list[TowerName] = []
    if args.text:
        towers.append("text")
    if args.image:
        towers.append("image")
    with engines.load(bundle, engine=args.engine, device=args.device, towers=towers) as clip:
        parts = [clip.encode_text(args.text)] if args.text else []
        parts += [clip.encode_image(list(args.image))] if args.image else []
    return np.concatenate(parts)


def _plain(answer: Query) -> dict[str, Any]:
    hits = [{"score": hit.score, **asdict(hit.row)} for hit in answer.hits]
    return {answer.kind: answer.name, "hits": hits}


def _print(answers: list[Query], rows: int, tower: str) -> None:
    width = max(_NARROWEST, shutil.get_terminal_size((120, 24)).columns)
    for answer in answers:
        say(visible(f"{answer.kind} {answer.name!r}: {len(answer.hits):,} of {rows:,} {tower} embeddings"))
        if answer.hits:
            say(format_table(("score", "key", "caption", "url"), _cells(answer.hits, width)))
        say("")
    sys.stdout.flush()


def _cells(hits: list[Hit], width: int) -> list[tuple[str, ...]]:
    """Cells that fit the terminal: the key gets at most a quarter, caption and url share the rest."""
    texts = [(visible(h.row.key), visible(h.row.caption or "-"), visible(h.row.url or "-")) for h in hits]
    key = min(width // 4, max(columns(texts[0]) for texts in texts))
    rest = width - key - len("0.0000") - 3 * len("  ")
    url = min(rest // 2, max(columns(texts[2]) for texts in texts))
    widths = (key, rest - url, url)
    return [
        (f"{hit.score:.4f}", *(_cut(text, limit) for text, limit in zip(row, widths, strict=True)))
        for hit, row in zip(hits, texts, strict=True)
    ]


def _cut(text: str, width: int) -> str:
    """A text of at most `width` terminal columns."""
    if columns(text) <= width:
        return text
    while text and columns(text) > width - 1:
        text = text[: min(len(text) - 1, width)]
    return text + "…"
