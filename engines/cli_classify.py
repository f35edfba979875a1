"""``python -m engines classify``: zero-shot classification of image files."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

import engines
from engines.cli_common import add_engine_arguments
from engines.errors import ImageError, InputError
from engines.image_files import find_images
from engines.tables import format_table

_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", metavar="A,B,…", help="labels or captions, separated by commas")
    labels.add_argument("--labels-file", metavar="FILE", help="one label a line")
    parser.add_argument("--template", action="append", metavar="TEXT", help="prompt with {} for the label; repeatable")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="show the K best labels (default 1)")
    add_engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Classify and print a table; unreadable images are named and skipped."""
    labels = _labels(args)
    files = [path for item in args.images for path in find_images(Path(item))]
    results: list[tuple[str, np.ndarray]] = []
    skipped: list[str] = []
    with engines.load(args.bundle, engine=args.engine, device=args.device) as clip:
        label_embeds = clip.encode_labels(labels, args.template or ("{}",))
        for start, batch in clip.preprocess_ahead(files, _BATCH):
            names, pixels = [], []
            for path, item in zip(files[start:], batch, strict=False):
                if isinstance(item, ImageError):
                    skipped.append(str(item))
                else:
                    pixels.append(item)
                    names.append(str(path))
            if pixels:
                rows = clip.probabilities(clip.encode_image(np.stack(pixels)), label_embeds)
                results += list(zip(names, rows, strict=True))
    best = [(name, row, np.argsort(-row)[: max(1, args.top)]) for name, row in results]
    if args.json:
        shown = [
            {"file": n, "labels": [{"label": labels[i], "probability": float(r[i])} for i in top]} for n, r, top in best
        ]
        print(json.dumps({"images": shown, "skipped": skipped}, indent=2))
    elif best:
        table = [(n if k == 0 else "", labels[i], f"{r[i]:.1%}") for n, r, top in best for k, i in enumerate(top)]
        print(format_table(("file", "label", "probability"), table))
    for message in skipped:
        print(f"skipped: {message}", file=sys.stderr)
    if not results:
        raise InputError(f"none of {len(files)} images could be read")
    return 0


def _labels(args: argparse.Namespace) -> list[str]:
    if args.labels is not None:
        labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    else:
        try:
            lines = Path(args.labels_file).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"cannot read the labels of {args.labels_file}: {error}") from error
        labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise InputError("there is no label: pass --labels 'a dog,a cat'")
    return labels
