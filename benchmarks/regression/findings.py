"""The findings of a comparison, and their text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.records.figures import FIGURES, label
from benchmarks.records.rows import Row
from benchmarks.regression.noise import Mean
from benchmarks.reporting.report_tables import NOISY, NOISY_LEGEND, number
from engines.process.tables import format_table


@dataclass
class Comparison:
    """The rows of A, sorted by their change in B.

    Attributes:
        worse, better: pairs of rows that differ beyond the noise.
        compared: pairs, these included.
        unsure: pairs that lie within noise that would hide a slowdown of 20 % as well.
        slower, faster: engines whose mean over all figures on a model differs beyond the noise.
        steady: engines whose mean is the same.
        blurred: engines whose mean is too noisy to see a slowdown of 20 %.
        failed: rows of B that crashed, one for each case that was measured in A.
        missing: rows of B that could not be measured, one for each case that was measured in A.
        vanished: rows of A that B does not have.
        added: rows that only B has.
        elsewhere: pairs of rows of different machines, not compared.
    """

    worse: list[tuple[Row, Row]] = field(default_factory=list)
    better: list[tuple[Row, Row]] = field(default_factory=list)
    compared: list[tuple[Row, Row]] = field(default_factory=list)
    unsure: list[tuple[Row, Row]] = field(default_factory=list)
    slower: list[Mean] = field(default_factory=list)
    faster: list[Mean] = field(default_factory=list)
    steady: list[Mean] = field(default_factory=list)
    blurred: list[Mean] = field(default_factory=list)
    failed: list[Row] = field(default_factory=list)
    missing: list[Row] = field(default_factory=list)
    vanished: list[Row] = field(default_factory=list)
    added: list[Row] = field(default_factory=list)
    elsewhere: list[tuple[Row, Row]] = field(default_factory=list)

    @property
    def judged(self) -> bool:
        """Whether a figure or an engine's mean could be judged."""
        return len(self.unsure) < len(self.compared) or bool(self.slower or self.faster or self.steady)


def describe(comparison: Comparison) -> str:
    """The comparison for people: worse figures first, one sentence at the end."""
    parts = [_means("worse over all its figures", comparison.slower), _changes("worse", comparison.worse)]
    parts += [_means("better over all its figures", comparison.faster), _changes("better", comparison.better)]
    parts += [_means("too noisy to judge, a slowdown of 20 % could not be seen", comparison.blurred)]
    parts += [_cases("failed now", comparison.failed), _cases("missing now", comparison.missing)]
    parts += [_cases("not measured again", comparison.vanished), _cases("new", comparison.added)]
    if comparison.elsewhere:
        places = sorted({f"{a.machine or 'no name'} → {b.machine or 'no name'}" for a, b in comparison.elsewhere})
        parts.append(f"of another machine, not compared: {len(comparison.elsewhere)} figures ({', '.join(places)})")
    updates = sorted({f"{a.versions} → {b.versions}" for a, b in comparison.compared if a.versions != b.versions})
    if updates:
        parts.append("\n".join(["other versions:", *(f"  {update}" for update in updates)]))
    if any(row.status == "noisy" for pair in (*comparison.worse, *comparison.better) for row in pair):
        parts.append(NOISY_LEGEND)
    same = len(comparison.compared) - len(comparison.worse) - len(comparison.better) - len(comparison.unsure)
    counts = f"{len(comparison.worse)} worse, {len(comparison.better)} better, {same} within the noise"
    counts += f", {len(comparison.unsure)} too noisy to judge one by one" if comparison.unsure else ""
    last = [f"{len(comparison.compared)} figures compared: {counts}"]
    means = len(comparison.slower) + len(comparison.faster) + len(comparison.steady) + len(comparison.blurred)
    if means:
        counts = f"{len(comparison.slower)} worse, {len(comparison.faster)} better, {len(comparison.steady)} within the noise"
        counts += f", {len(comparison.blurred)} too noisy to judge" if comparison.blurred else ""
        last.append(f"{means} means over an engine's figures on a model: {counts}")
    parts.append("\n".join(last))
    return "\n\n".join(part for part in parts if part)


def _changes(title: str, pairs: Sequence[tuple[Row, Row]]) -> str:
    if not pairs:
        return ""
    lines = []
    for a, b in sorted(pairs, key=lambda pair: pair[0].key):
        assert a.value is not None
        assert b.value is not None
        relative = f"{100 * (b.value / a.value - 1):+.1f} %" if a.value and not FIGURES[a.figure].is_share else ""
        lines.append((*_words(a), label(a.figure), _shown(a), _shown(b), relative))
    header = ("what", "model", "tower", "engine", "batch", "shape", "figure", "before", "after", "")
    return f"{title}:\n{format_table(header, lines, indent='  ')}"


def _means(title: str, means: Sequence[Mean]) -> str:
    if not means:
        return ""
    lines = []
    for mean in means:
        row = mean.pairs[0][0]
        change, limit = (f"{100 * math.expm1(value):+.1f} %" for value in (mean.change, -mean.limit))
        engine = f"{row.engine} {row.precision}".strip()
        lines.append((row.model, engine, label(row.figure), str(len(mean.pairs)), change, limit))
    header = ("model", "engine", "figure", "how many", "change", "noise up to")
    return f"{title}:\n{format_table(header, sorted(lines), indent='  ')}"


def _cases(title: str, rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    lines = {
        " ".join(word for word in _words(row) if word) + (f": {row.note}" if row.value is None else "") for row in rows
    }
    return "\n".join([f"{title}:", *(f"  {line}" for line in sorted(lines))])


def _words(row: Row) -> tuple[str, ...]:
    batch = str(row.batch) if row.batch else ""
    return row.what, row.model, row.tower, f"{row.engine} {row.precision}".strip(), batch, row.shape


def _shown(row: Row) -> str:
    assert row.value is not None
    return number(row.value, row.figure) + (f" {NOISY}" if row.status == "noisy" else "")
