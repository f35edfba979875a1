"""``python -m engines verify``: the parity gate on this machine."""

from __future__ import annotations

import argparse
import json

import msgspec

from engines.cli_common import add_engine_arguments
from engines.manifest import Parity, read_manifest
from engines.rough_inputs import describe
from engines.tables import format_table
from engines.verify import towers_without_engine, verify_bundle

GATE_FAILED = 3
_WITHOUT_ENGINE = (
    "A tower for which an engine was not built is named and cannot be checked. That is no failure where the engine was named, or "
    "with all: the exit code is 0 if all that was built is right. With auto it is an error (exit code 1), because the bundle "
    "cannot be loaded whole."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_engine_arguments(parser, "auto (default: for each tower the engine that loading takes), all,")
    parser.description = f"{parser.description} {_WITHOUT_ENGINE}"
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify; exit code 3 if an engine fails."""
    rows = verify_bundle(args.bundle, args.engine, args.device)
    passed = all(row.passed for row in rows)
    missing = towers_without_engine(read_manifest(args.bundle), rows)
    if args.json:
        found = {"passed": passed, "towers_without_engine": missing, "parity": msgspec.to_builtins(rows)}
        print(json.dumps(found, indent=2))
        return 0 if passed else GATE_FAILED
    print(_text(rows) + "\n")
    for engine, towers in missing.items():
        print(f"not checked: the {' and the '.join(towers)} tower, for which the bundle has no {engine} engine")
    if not passed:
        print("FAILED: do not serve with this engine")
    elif missing:
        print("verified: files are right, and so are the embeddings of the engines that were built")
    else:
        print("verified: files and embeddings are right")
    return 0 if passed else GATE_FAILED


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
    return "\n".join([table, *(f"{row.verified_with}, {line}" for row in rows for line in describe(row))])
