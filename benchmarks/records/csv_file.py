"""Rows of measurements in CSV files: read, and replaced by key in one step."""

from __future__ import annotations

import contextlib
import csv
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
COMMIT_FILE = _ROOT / "gpu-kit" / "commit.txt"  # of `make gpu-kit`, for a copy of the tree that has no repository


def commit() -> str:
    """The commit that is checked out, with ``+`` if files differ from it.

    A copy of the tree without its repository has the commit that `make gpu-kit` wrote down when the tree was packed; without that
    file, too, it is empty.
    """
    if (
        _ROOT / ".git"
    ).exists():  # else git would name the commit of a repository that happens to lie around this folder
        command = ["git", "-C", str(_ROOT), "describe", "--always", "--dirty=+", "--abbrev=10", "--match="]
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    with contextlib.suppress(OSError):
        return COMMIT_FILE.read_text(encoding="utf-8").strip()
    return ""


def read_rows(path: Path) -> list[dict[str, str]]:
    """The rows of a results file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def upsert(
    path: Path,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    key: Sequence[str],
    replaced: Sequence[str] = (),
) -> None:
    """Replace the rows that have the same key, append the others, and write the file in one step.

    Args:
        path: the CSV file; it is made if it is not there.
        rows: new rows; columns that a row lacks are empty.
        columns: the file's columns, in order.
        key: columns that name a row.
        replaced: columns of the key; older rows that agree with a new one in all of them go. Empty: only rows of the same key.
    """
    gone = {tuple(str(row[name]) for name in replaced) for row in rows} if replaced else set()
    merged = {
        tuple(row[name] for name in key): {name: row.get(name, "") for name in columns}
        for row in read_rows(path)
        if tuple(row[name] for name in replaced) not in gone
    }
    for row in rows:
        merged[tuple(str(row[name]) for name in key)] = {name: str(row.get(name, "")) for name in columns}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(merged.values())
    temporary.replace(path)
