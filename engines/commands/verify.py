"""The command ``python -m engines verify``: the parity gate on this machine, pixels of hard pictures, ids of hard captions."""

from __future__ import annotations

import argparse

import msgspec

from engines.commands.common import add_engine_arguments
from engines.files.json_text import json_text
from engines.manifest import Parity, read_manifest
from engines.process.tables import format_table
from engines.process.terminal import say, visible
from engines.verification.embeddings import towers_without_engine, verify_bundle
from engines.verification.ids import IdParity, verify_ids
from engines.verification.pixels import PixelParity, verify_pixels
from engines.verification.rough_inputs import describe

GATE_FAILED = 3
_WITHOUT_ENGINE = (
    "A tower for which an engine was not built is named and cannot be checked. That is no failure where the engine was named, or "
    "with all: the exit code is 0 if all that was built is right. With auto it is an error (exit code 1), because the bundle "
    "cannot be loaded whole."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    add_engine_arguments(parser, "auto (default: for each tower the engine that loading takes), all,")
    parser.description = f"{parser.description} {_WITHOUT_ENGINE}"
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify a bundle; exit code 3 if an engine fails, or a picture's pixels or a caption's ids differ from the exporter's."""
    rows = verify_bundle(args.bundle, args.engine, args.device)
    pixels, ids = verify_pixels(args.bundle), verify_ids(args.bundle)
    passed = all(row.passed for row in rows) and pixels.passed and ids.passed
    manifest = read_manifest(args.bundle)
    missing = towers_without_engine(manifest, rows)
    if args.json:
        report = {
            "passed": passed,
            "towers_without_engine": missing,
            "parity": msgspec.to_builtins(rows),
            "pixels": msgspec.to_builtins(pixels) if pixels.pictures else None,
            "ids": msgspec.to_builtins(ids) if ids.captions else None,
        }
        print(json_text(report))
        return 0 if passed else GATE_FAILED
    say(_text(rows) + "\n")
    for engine, towers in missing.items():
        say(visible(f"not checked: the {' and the '.join(towers)} tower, for which the bundle has no {engine} engine"))
    if "image" in manifest.towers:
        say(_pixel_lines(pixels))
    if "text" in manifest.towers:
        say(_id_lines(ids))
    if not all(row.passed for row in rows):
        say("FAILED: do not serve with this engine")
    elif not pixels.passed:
        say("FAILED: images become other pixels here than where the bundle was exported")
    elif not ids.passed:
        say("FAILED: captions become other ids here than where the bundle was exported")
    elif missing:
        say("verified: files are right, and so are the embeddings of the engines that were built")
    else:
        say("verified: files and embeddings are right")
    return 0 if passed else GATE_FAILED


def _pixel_lines(pixels: PixelParity) -> str:
    if not pixels.pictures:
        return "not checked: pixels, for the bundle was exported before bundles carried pictures"
    if pixels.failures:
        return "\n".join(map(visible, pixels.failures))
    return visible(
        f"pixels of {pixels.pictures} hard pictures are the exporter's, to {pixels.max_error} levels of 255 "
        f"(Pillow {pixels.made_with} there, {pixels.pillow} here)"
    )


def _id_lines(ids: IdParity) -> str:
    if not ids.captions:
        return "not checked: ids of captions, for the bundle was exported before bundles carried captions"
    if ids.failures:
        return "\n".join(map(visible, ids.failures))
    return f"ids of {ids.captions} hard captions are the exporter's"


def _text(rows: list[Parity]) -> str:
    cells = []
    for row in rows:
        for name, tower in row.towers.items():
            cells.append(
                (
                    row.verified_with,
                    name,
                    f"{tower.min_cosine:.6f} (≥ {row.limits.min_cosine:g})",
                    f"{tower.mean_cosine:.6f} (≥ {row.limits.mean_cosine:g})",
                    f"{tower.max_abs_error:.1e}",
                    "-"
                    if row.top1_agreement is None
                    else f"{row.top1_agreement:.1%} (≥ {row.limits.top1_agreement:.0%})",
                    str(tower.samples),
                )
            )
    table = format_table(("engine", "tower", "min cosine", "mean cosine", "max error", "top-1", "samples"), cells)
    return "\n".join([table, *(visible(f"{row.verified_with}, {line}") for row in rows for line in describe(row))])
