"""The command ``python -m engines classify``: zero-shot classification of image files."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import engines
from engines.commands.common import add_engine_arguments, add_max_pixels, load_options, tell_left_out
from engines.errors import ImageError, InputError
from engines.files.json_text import json_text
from engines.files.text_files import read_lines
from engines.inputs.image_files import find_all_images
from engines.process.tables import format_table
from engines.process.terminal import say, visible

_BATCH = 32


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files or folders")
    labels = parser.add_mutually_exclusive_group(required=True)
    labels.add_argument("--labels", metavar="A,B,...", help="labels or captions, separated by commas")
    labels.add_argument("--labels-file", metavar="FILE", help="one label a line")
    parser.add_argument("--template", action="append", metavar="TEXT", help="prompt with {} for the label; repeatable")
    parser.add_argument("--top", type=int, default=1, metavar="K", help="show the K best labels (default 1)")
    add_engine_arguments(parser)
    add_max_pixels(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Classify and print a table; unreadable images are named and skipped."""
    labels = _labels(args)
    if args.top < 1:
        raise InputError(f"--top {args.top} shows no label: pass 1 or more")
    options = load_options(args)
    images = find_all_images(Path(item) for item in args.images)
    files = images.files
    results: list[tuple[str, np.ndarray]] = []
    skipped: list[str] = []
    with engines.load(args.bundle, engine=args.engine, device=args.device, **options) as clip:
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
    best = [(name, row, np.argsort(-row)[: args.top]) for name, row in results]
    if args.json:
        shown = [
            {"file": n, "labels": [{"label": labels[i], "probability": float(r[i])} for i in top]} for n, r, top in best
        ]
        print(json_text({"images": shown, "skipped": skipped, "left_out": dict(images.left_out)}))
    elif best:
        table = [(n if k == 0 else "", labels[i], f"{r[i]:.1%}") for n, r, top in best for k, i in enumerate(top)]
        say(format_table(("file", "label", "probability"), table))
    for message in skipped:
        say(f"skipped: {visible(message)}", sys.stderr)
    tell_left_out(images.left_out)
    if not results:
        raise InputError(f"none of {len(files)} images could be read")
    return 0


def _labels(args: argparse.Namespace) -> list[str]:
    if args.labels is not None:
        labels = [label.strip() for label in args.labels.split(",") if label.strip()]
    else:
        lines = read_lines(Path(args.labels_file), "the labels of")
        labels = [line.strip() for line in lines if line.strip()]
    if not labels:
        raise InputError("there is no label: pass --labels 'a dog,a cat'")
    counts = Counter(labels)
    if len(counts) < len(labels):
        label, times = counts.most_common(1)[0]
        others = sum(count > 1 for count in counts.values()) - 1
        more = f", and {others} more labels are repeated" if others else ""
        say(f"a label counts once: {visible(label)!r} is there {times} times{more}", sys.stderr)
    return list(counts)
