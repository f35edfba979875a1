"""Aligned tables for the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from engines.process.terminal import columns, encoding_of, fit, visible


def format_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], indent: str = "", encoding: str | None = None
) -> str:
    """Columns padded to their widest cell; the last column is not padded.

    Args:
        header: one title for each column.
        rows: rows with a cell for each column; line breaks, control characters and the like in a cell become visible escapes.
        indent: text before each line.
        encoding: the output's encoding; characters that it lacks are replaced; None is standard output's.
    """
    target = encoding_of(sys.stdout) if encoding is None else encoding
    cells = [[fit(visible(cell), target) for cell in row] for row in (header, *rows)]
    widths = [max(columns(row[i]) for row in cells) for i in range(len(header))]
    lines = [
        indent + "  ".join(c + " " * (w - columns(c)) for c, w in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    lines.insert(1, indent + "  ".join("-" * width for width in widths))
    return "\n".join(lines)
