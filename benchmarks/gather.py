"""Rows that came back from another machine, into this tree: ``python -m benchmarks gather FOLDER …``.

Each row goes to the folder of the machine that its column names, in the place of an older one of the same thing, and a table of
choices among them into ``kernels/choices.csv``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.records import rows as rowfiles
from benchmarks.records.machine import Machine
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from benchmarks.suites.step import CHOICES


def gather(folders: Sequence[Path], results: Path) -> dict[str, int]:
    """Merge the rows of folders, a later one's in the place of an earlier one's.

    Args:
        folders: folders that suites wrote with ``--out``.
        results: folder of the machines' folders.

    Returns:
        Each machine's folder with its number of new rows.

    Raises:
        ValueError: a file that ends with .csv holds no rows.
    """
    by_slug: dict[str, list[Row]] = {}
    for folder in folders:
        for row in rowfiles.read(folder):
            # A case that an attempt had no time for is no result, and must not take the place of one.
            if row.value is not None or not row.note.startswith("out of time"):
                by_slug.setdefault(Machine("", row.machine).slug, []).append(row)
    for slug, group in by_slug.items():
        rowfiles.merge(results / slug, group)
    return {slug: len(group) for slug, group in by_slug.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Merge rows, and the choices beside them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gather", description=__doc__.splitlines()[0])
    parser.add_argument("folders", type=Path, nargs="+", help="that suites wrote with --out")
    parser.add_argument("--results", type=Path, default=RESULTS, help="default benchmarks/results")
    parser.add_argument("--table", type=Path, help="of choices (default kernels/choices.csv)")
    args = parser.parse_args(argv)
    for folder in args.folders:
        if not folder.is_dir():
            print(f"error: {folder} is no folder: name those that were given to --out", file=sys.stderr)
            return 1
    try:
        for slug, count in gather(args.folders, args.results).items():
            print(f"{count} rows: {args.results / slug}/")
        for table in (folder / CHOICES for folder in args.folders):
            if table.exists():
                from kernels import choices

                where = args.table or choices.TABLE
                print(f"{choices.merge(choices.read(table), where)} choices: {where}")
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
