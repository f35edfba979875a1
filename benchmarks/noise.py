"""How far apart two runs may be although nothing changed: from the spread between the passes of each.

A run measures every case in several passes, each with processes of its own, minutes apart: what differs from process to process and
what drifts on the host within minutes shows as a spread between the passes' medians. Three passes tell little about one figure's
spread; the figures of one kind of one tower tell it together.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence

from benchmarks.rows import Row

FALSE_ALARMS = 0.05  # share of reruns in which one figure or more is said to have changed although none has
_SHARED = 0.25  # speedups of a case have eager's rounds in common: log ratios correlate by a half, their variances by its square
_VARIANCE_OF_MEDIAN = (1.0, 0.5, 0.4487, 0.2982, 0.2868)  # of 1, 2, … independent normal values of variance 1

Group = tuple[str, ...]


class Noise:
    """The noise of figures that both runs measured in several passes."""

    def __init__(self, pairs: Sequence[tuple[Row, Row]]) -> None:
        """From the pairs that are judged together: the more they are, the more it takes to call one of them changed."""
        self._tail = FALSE_ALARMS / 2 / max(1, len(pairs))
        self._own = {a.key: _pooled([(a, b)])[0] for a, b in pairs}
        groups: dict[Group, list[tuple[Row, Row]]] = {}
        for a, b in pairs:
            groups.setdefault(_kind(a), []).append((a, b))
            groups.setdefault(_case(a), []).append((a, b))
        self._pooled: Mapping[Group, tuple[float, int]] = {group: _pooled(those) for group, those in groups.items()}

    def limit(self, a: Row, b: Row) -> float:
        """The change of the logarithm that is beyond the noise."""
        pooled, freedom = self._pooled[_kind(a)]
        # A case or figure that is noisier than its kind counts as noisy as it was: calls of a millisecond beside calls of a second.
        variance = max(pooled, self._pooled[_case(a)][0], self._own[a.key])
        variance *= variance_of_median(a.passes) + variance_of_median(b.passes)
        return student(1 - self._tail, freedom) * math.sqrt(variance)


def has_passes(row: Row) -> bool:
    """Whether its spread between passes is known."""
    return row.passes > 1 and row.spread is not None and row.value is not None and row.value > 0


def variance_of_median(count: int) -> float:
    """Of independent normal values of variance 1."""
    return _VARIANCE_OF_MEDIAN[count - 1] if count <= len(_VARIANCE_OF_MEDIAN) else math.pi / 2 / (count + 1)


@functools.lru_cache
def student(share: float, freedom: int) -> float:
    """The value below which that share (more than a half) of Student's t with integer degrees of freedom lies."""
    low, high = 0.0, 1.0
    while _student_below(high, freedom) < share:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _student_below(middle, freedom) < share else (low, middle)
    return high


def _student_below(t: float, freedom: int) -> float:
    """Share of Student's t below `t`, by its finite series (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    square = math.cos(angle) ** 2
    term = math.cos(angle) if freedom % 2 else 1.0
    total = 0.0
    for i in range(2 + freedom % 2, freedom + 1, 2):
        total += term
        term *= square * (i - 1) / i
    if freedom % 2:
        return 0.5 + (angle + math.sin(angle) * total) / math.pi
    return 0.5 + math.sin(angle) * total / 2


def _kind(row: Row) -> Group:
    return row.model, row.tower, row.figure


def _case(row: Row) -> Group:
    return row.what, row.model, row.tower, str(row.batch), row.shape, row.figure


def _pooled(pairs: Iterable[tuple[Row, Row]]) -> tuple[float, int]:
    """Variance of a pass, of the logarithm, and its degrees of freedom."""
    total, weight = 0.0, 0
    cases: dict[tuple[str, ...], list[int]] = {}
    for a, b in pairs:
        own = 0
        for row in (a, b):
            assert row.spread is not None
            total += (row.passes - 1) * row.spread**2
            own += row.passes - 1
        weight += own
        cases.setdefault((a.what, str(a.batch), a.shape), []).append(own)
    freedom = sum(sum(each) / (1 + (len(each) - 1) * _SHARED) for each in cases.values())
    return total / weight, max(1, int(freedom))
