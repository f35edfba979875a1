"""The documentation's tables from the rows under ``benchmarks/results/``: ``python -m benchmarks tables`` writes them in place.

It also writes ``exporter/planning/measured.csv``, the measured costs that ``python -m exporter --dry-run`` reads.

A page has a table where it has the marks ``<!-- table: NAME -->`` and ``<!-- end -->``: README.md and the pages of docs/.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.records.csv_file import read_rows
from benchmarks.records.results import COMMITTED as RESULTS
from benchmarks.reporting import decode_table, peers_table, readme_tables
from benchmarks.reporting.measured_costs import PLACE, measured_costs
from engines.precisions import PRECISIONS

ROOT = Path(__file__).resolve().parents[1]
_TOWERS = ("image", "text")


def zoo_table() -> str:
    """Every architecture, the small ones first: files, nodes and error against eager; the engines built of it for three targets."""
    rows = read_rows(RESULTS / "zoo.csv")
    by_key = {(r["model"], r["precision"], r["tower"]): r for r in rows}
    engines = read_rows(RESULTS / "zoo_engines.csv")
    precisions = [p for p in PRECISIONS if any(r["precision"] == p for r in rows)]
    targets = list(dict.fromkeys(r["target"] for r in engines))
    header = ["model", *(_GATE_COLUMNS.get(p, _COSINES).format(p) for p in precisions), "peak memory / fp32 weights"]
    if engines:
        header += [
            f"TensorRT-RTX: s for {' / '.join(targets)}",
            "builder's peak / fp16 weights",
            "fused attention image, text",
        ]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    sizes = {r["model"]: float(r["weights_fp32_mb"] or "inf") for r in sorted(rows, key=lambda r: r["status"] == "ok")}
    for model in sorted(sizes, key=lambda name: (sizes[name], name)):
        cells, ratios = [model], []
        for precision in precisions:
            pair = [by_key.get((model, precision, tower)) for tower in _TOWERS]
            good = [r for r in pair if r is not None and r["status"] == "ok"]
            if len(good) == 2:
                cells.append(_gate_cell(precision, good))
                ratios.append(f"{float(good[0]['peak_memory_mb']) / float(good[0]['weights_fp32_mb']):.1f}")
            else:
                cells.append(next((r["status"] for r in pair if r is not None), "not run"))
        cells.append(" / ".join(ratios) or "–")
        if engines:
            cells += _engine_cells([r for r in engines if r["model"] == model], targets)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_COSINES = "{}: MB, min cosine image / text"
_GATE_COLUMNS = {"fp32": "{}: nodes image / text, max abs error image / text"}


def _gate_cell(precision: str, towers: Sequence[Mapping[str, str]]) -> str:
    """What the gate measured of both towers: float32's error has too few digits in a cosine."""
    if precision in _GATE_COLUMNS:
        nodes = " / ".join(r["nodes"] for r in towers)
        return f"{nodes}, " + " / ".join(f"{float(r['max_abs_error']):.0e}" for r in towers)
    size = sum(float(r["file_mb"]) for r in towers)
    return f"{size:,.0f}, " + " / ".join(f"{float(r['min_cosine']):.6f}" for r in towers)


def _engine_cells(rows: Sequence[Mapping[str, str]], targets: Sequence[str]) -> list[str]:
    """Seconds of both towers for each target, the builder's peak memory, attention blocks in one kernel (of all)."""
    if not rows:
        return ["not run", "–", "–"]
    bad = [r["status"] for r in rows if r["status"] != "ok"]
    if bad:
        return [bad[0], "–", "–"]
    seconds = [sum(float(r["seconds"]) for r in rows if r["target"] == target) for target in targets]
    peaks = [max(float(r["peak_memory_mb"]) / float(r["weights_mb"]) for r in rows if r["tower"] == t) for t in _TOWERS]
    fused = []
    for tower in _TOWERS:
        tower_rows = [r for r in rows if r["tower"] == tower]
        counts = {(int(r["fused_attention"]), int(r["decomposed_attention"])) for r in tower_rows}
        fused.append(" or ".join(f"{a}" if not b else f"{a} of {a + b}" for a, b in sorted(counts)))
    return [
        " / ".join(f"{value:.0f}" for value in seconds),
        " / ".join(f"{peak:.1f}" for peak in peaks),
        ", ".join(fused),
    ]


def roofline_table() -> str:
    """The work in every architecture, and what GPUs could reach at most, predicted."""
    rows = read_rows(RESULTS / "roofline.csv")
    gpus = [name.removeprefix("predicted_per_s_") for name in rows[0] if name.startswith("predicted_per_s_")]
    header = [
        "model",
        "GFLOP image / text",
        "fp16 MB image / text",
        *(f"{gpu}, predicted: images/s, texts/s" for gpu in gpus),
    ]
    lines = ["| " + " | ".join(header) + " |", "| " + " | ".join("---" for _ in header) + " |"]
    for model in dict.fromkeys(r["model"] for r in rows):
        image, text = ({r["tower"]: r for r in rows if r["model"] == model}[tower] for tower in _TOWERS)
        cells = [model, f"{float(image['gflops']):.1f} / {float(text['gflops']):.1f}"]
        cells.append(f"{float(image['weights_mb']):,.0f} / {float(text['weights_mb']):,.0f}")
        cells += [", ".join(f"{int(r[f'predicted_per_s_{gpu}']):,}" for r in (image, text)) for gpu in gpus]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "cold_start": lambda: readme_tables.cold_start_table(RESULTS),
    "zoo": zoo_table,
    "roofline": roofline_table,
    "bench": lambda: readme_tables.bench_table(RESULTS),
    "int8": lambda: readme_tables.int8_table(RESULTS),
    "parity": lambda: readme_tables.parity_table(RESULTS),
    "gpu": lambda: readme_tables.gpu_table(RESULTS),
    "cpp": lambda: readme_tables.cpp_table(RESULTS),
    "peers": lambda: peers_table.peers_table(RESULTS),
    "decode": lambda: decode_table.decode_table(RESULTS),
    "decode_scale": lambda: decode_table.scale_table(RESULTS),
}


class MarkError(Exception):
    """A mark in a page that names no table, or that has no end; the message is one sentence."""


# A mark, and the text up to its end: nothing but the text of a table, so no other mark stands between the two.
_MARK = re.compile(r"<!-- table: (.*?) -->")
_PAIR = re.compile(r"<!-- table: (\w+) -->(?:(?!<!-- table: ).)*?<!-- end -->", re.DOTALL)


def pages() -> list[Path]:
    """The pages that may have marks: README.md, then those of docs/ in order of their names."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fill(text: str, page: str = "the text") -> str:
    """`text` with every table between its marks made anew.

    Args:
        text: a page.
        page: the page's name, for errors.

    Raises:
        MarkError: a mark names no table, or has no end.
    """
    names = _MARK.findall(text)
    for name in names:
        if name not in TABLES:
            raise MarkError(f"{page} has a mark for a table {name!r}, which is none of {', '.join(TABLES)}")
    if len(_PAIR.findall(text)) != len(names):
        ended = [match[1] for match in _PAIR.finditer(text)]
        name = next(name for name in names if names.count(name) != ended.count(name))
        raise MarkError(f"{page} has a mark for the table {name!r} without <!-- end --> after it")
    return _PAIR.sub(lambda match: f"<!-- table: {match[1]} -->\n{TABLES[match[1]]()}\n<!-- end -->", text)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the tables, or with ``--check`` say which pages are out of date."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks tables", description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a table is out of date")
    args = parser.parse_args(argv)
    filled: dict[Path, str] = {}
    try:
        for page in pages():
            text = page.read_text(encoding="utf-8")
            new = fill(text, page.relative_to(ROOT).as_posix())
            if new != text:
                filled[page] = new
    except MarkError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    costs = measured_costs(RESULTS)
    if not (ROOT / PLACE).is_file() or (ROOT / PLACE).read_text(encoding="utf-8") != costs:
        filled[ROOT / PLACE] = costs
    for page, text in filled.items():
        if args.check:
            name = page.relative_to(ROOT).as_posix()
            print(f"{name} has a table that is out of date: run `python -m benchmarks tables`", file=sys.stderr)
        else:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
    return int(args.check and bool(filled))


if __name__ == "__main__":
    sys.exit(main())
