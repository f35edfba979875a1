"""The README's tables from the rows under ``benchmarks/results/``: ``python -m benchmarks.report`` writes them in place."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.results_file import read_rows

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def figures_table() -> str:
    """The spine's figures, one row each, with the machine they were measured on."""
    rows = read_rows(RESULTS / "figures.csv")
    lines = ["| model | figure | measured | target |", "| --- | --- | --- | --- |"]
    lines += [f"| {r['model']} | {r['figure']} | {r['value']} {r['unit']} | {r['target'] or '–'} |" for r in rows]
    where = sorted({f"{r['machine']}; {r['versions']}" for r in rows})
    return "\n".join([*lines, "", *(f"Measured on {place}." for place in where)])


def zoo_table() -> str:
    """Every architecture: file size, error against eager, peak memory, seconds."""
    rows = read_rows(RESULTS / "zoo.csv")
    by_key = {(r["model"], r["precision"], r["tower"]): r for r in rows}
    precisions = [p for p in ("fp32", "fp16", "bf16") if any(r["precision"] == p for r in rows)]
    header = ["model", *(f"{p}: MB, min cosine image / text" for p in precisions), "peak memory / fp32 weights"]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    for model in dict.fromkeys(r["model"] for r in rows):
        cells, ratios = [model], []
        for precision in precisions:
            pair = [by_key.get((model, precision, tower)) for tower in ("image", "text")]
            good = [r for r in pair if r is not None and r["status"] == "ok"]
            if len(good) == 2:
                size = sum(float(r["file_mb"]) for r in good)
                cells.append(f"{size:,.0f}, {float(good[0]['min_cosine']):.6f} / {float(good[1]['min_cosine']):.6f}")
                ratios.append(f"{float(good[0]['peak_memory_mb']) / float(good[0]['weights_fp32_mb']):.1f}")
            else:
                cells.append(next((r["status"] for r in pair if r is not None), "not run"))
        lines.append("| " + " | ".join([*cells, " / ".join(ratios) or "–"]) + " |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {"figures": figures_table, "zoo": zoo_table}


def fill(text: str) -> str:
    """`text` with every table between its ``<!-- table: NAME -->`` and ``<!-- end -->`` marks made anew."""

    def table(match: re.Match[str]) -> str:
        return f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->.*?<!-- end -->", table, text, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or with ``--check`` say whether they are up to date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.report", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is out of date")
    args = parser.parse_args(argv)
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    new = fill(text)
    if args.check:
        return int(new != text)
    readme.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
