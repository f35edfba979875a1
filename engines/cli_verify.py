"""``python -m engines verify``: the parity gate on this machine."""

from __future__ import annotations

import argparse
import json

import msgspec

from engines.cli_common import add_engine_arguments
from engines.manifest import Parity
from engines.tables import format_table
from engines.verify import verify_bundle

GATE_FAILED = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of the command."""
    add_engine_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Verify; exit code 3 if an engine fails."""
    rows = verify_bundle(args.bundle, args.engine, args.device)
    passed = all(row.passed for row in rows)
    if args.json:
        print(json.dumps({"passed": passed, "parity": msgspec.to_builtins(rows)}, indent=2))
    else:
        print(_text(rows))
        print("\nverified: files and embeddings are right" if passed else "\nFAILED: do not serve with this engine")
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
    return format_table(("engine", "tower", "min cosine", "mean cosine", "max error", "top-1", "samples"), cells)
