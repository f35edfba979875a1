"""The difference that two runs may have although nothing changed, from the spread between the passes of each.

A run measures every case in several passes, each with processes of its own, minutes apart: differences between processes, and drift
of the host within minutes, show as a spread between the passes' medians. Three passes are too few for one figure's spread; it is
pooled over the figures of one kind of one tower.

A change that makes an engine slower mostly shows in all its figures, and their mean is much less noisy than each of them. So both
are judged, and share the false alarms.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.records.rows import Row

FALSE_ALARMS = 0.05  # share of reruns in which one figure or mean or more is said to have changed although none has
_SHARED = 0.25  # speedups of a case have eager's rounds in common: log ratios correlate by a half, their variances by its square
_VARIANCE_OF_MEDIAN = (1.0, 0.5, 0.4487, 0.2982, 0.2868)  # of 1, 2, … independent normal values of variance 1

Pair = tuple[Row, Row]
Group = tuple[str, ...]


@dataclass(frozen=True)
class Mean:
    """An engine's figures of one kind on one model, taken together.

    Attributes:
        pairs: rows before and after, two or more.
        change: change of the logarithm, mean over the figures and all passes.
        limit: the largest such change that the noise explains.
    """

    pairs: tuple[Pair, ...]
    change: float
    limit: float


class Noise:
    """The noise of figures that both runs measured in several passes."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        """Estimate the noise from the pairs that are judged together: the more pairs, the larger the limit of each."""
        self._tail = FALSE_ALARMS / 2 / 2 / max(1, len(pairs))
        self._own = {a.key: _pooled([(a, b)])[0] for a, b in pairs}
        groups: dict[Group, list[Pair]] = {}
        engines: dict[Group, list[Pair]] = {}
        for a, b in pairs:
            groups.setdefault(_kind(a), []).append((a, b))
            groups.setdefault(_case(a), []).append((a, b))
            engines.setdefault(_engine(a), []).append((a, b))
        self._pooled: Mapping[Group, tuple[float, int]] = {group: _pooled(those) for group, those in groups.items()}
        self._engines = [those for those in engines.values() if len(those) > 1]

    def limit(self, a: Row, b: Row) -> float:
        """The change of a figure's logarithm that is beyond the noise."""
        variance = self._variance(a) * (variance_of_median(len(a.by_pass)) + variance_of_median(len(b.by_pass)))
        return student(1 - self._tail, self._pooled[_kind(a)][1]) * math.sqrt(variance)

    def means(self) -> list[Mean]:
        """The means of engines with two figures or more."""
        tail = FALSE_ALARMS / 2 / 2 / max(1, len(self._engines))
        noise: dict[Group, list[tuple[float, int]]] = {}
        for pairs in self._engines:
            noise.setdefault(_model(pairs[0][0]), []).extend(_noise_of_mean(rows) for rows in zip(*pairs, strict=True))
        means = []
        for pairs in self._engines:
            runs = noise[_model(pairs[0][0])]
            freedom = sum(degrees for _, degrees in runs)
            measured = sum(variance * degrees for variance, degrees in runs) / freedom
            # As if each figure had noise of its own, because the few passes of a mean may show less by chance.
            independent = sum(self._variance(a) for a, _ in pairs) / len(pairs) ** 2
            count = [min(len(row.by_pass) for row in rows) for rows in zip(*pairs, strict=True)]
            variance = max(measured, independent) * sum(1 / passes for passes in count)
            several = len(runs) // 2
            limit = student(1 - tail, max(1, int(freedom / (1 + (several - 1) * _SHARED)))) * math.sqrt(variance)
            change = statistics.fmean(_mean_log(b) - _mean_log(a) for a, b in pairs)
            means.append(Mean(tuple(pairs), change, limit))
        return means

    def _variance(self, a: Row) -> float:
        """The variance of a figure's pass. A case or figure that is noisier than its kind keeps its own variance."""
        return max(self._pooled[_kind(a)][0], self._pooled[_case(a)][0], self._own[a.key])


def has_passes(row: Row) -> bool:
    """Whether a row's spread between passes is known."""
    return len(row.by_pass) > 1 and min(row.by_pass) > 0 and row.value is not None


def variance_of_median(count: int) -> float:
    """The variance of the median of independent normal values of variance 1."""
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


def _model(row: Row) -> Group:
    return row.model, row.figure


def _engine(row: Row) -> Group:
    return row.model, row.engine, row.precision, row.figure


def _kind(row: Row) -> Group:
    return row.model, row.tower, row.figure


def _case(row: Row) -> Group:
    return row.what, row.model, row.tower, str(row.batch), row.shape, row.figure


def _mean_log(row: Row) -> float:
    return statistics.fmean(math.log(value) for value in row.by_pass)


def _sample_variance(values: Sequence[float]) -> float:
    """As `statistics.variance`, which takes twenty times as long for exact fractions."""
    mean = statistics.fmean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _noise_of_mean(rows: Sequence[Row]) -> tuple[float, int]:
    """Variance, from pass to pass of one run, of the mean over an engine's figures, and its degrees of freedom."""
    passes = min(len(row.by_pass) for row in rows)
    means = [statistics.fmean(math.log(row.by_pass[number]) for row in rows) for number in range(passes)]
    return _sample_variance(means), passes - 1


def _pooled(pairs: Iterable[Pair]) -> tuple[float, int]:
    """Variance of a pass, of the logarithm, and its degrees of freedom."""
    total, weight = 0.0, 0
    cases: dict[tuple[str, ...], list[int]] = {}
    for a, b in pairs:
        pair_freedom = 0
        for row in (a, b):
            freedom = len(row.by_pass) - 1
            total += freedom * _sample_variance([math.log(value) for value in row.by_pass])
            pair_freedom += freedom
        weight += pair_freedom
        cases.setdefault((a.what, str(a.batch), a.shape), []).append(pair_freedom)
    together = sum(sum(each) / (1 + (len(each) - 1) * _SHARED) for each in cases.values())
    return total / weight, max(1, int(together))
