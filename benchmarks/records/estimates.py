"""Estimates from repeated measurements: the median, the distance between low and high, and ratios round by round.

Rounds of one pass share their processes and their minute, and are short: each for itself says little. The pass is repeated:
the value is the median of the passes' medians, and the lowest and the highest of these stand beside it. A single pass has the
quartiles of its rounds instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

NOISY = 0.10  # low and high further apart than this share of the value


@dataclass(frozen=True)
class Estimate:
    """A median with the range around it.

    Attributes:
        value: the median; with several passes the median of their medians.
        low, high: the lowest and the highest median of a pass; where there is only one, or none, the quartiles of all measurements.
        repeats: number of measurements.
        by_pass: the medians of the passes in which they were made; empty where there are none.
    """

    value: float
    low: float
    high: float
    repeats: int
    by_pass: tuple[float, ...] = ()

    @property
    def noisy(self) -> bool:
        """Whether low and high are too far apart to rely on the median."""
        return self.high - self.low > NOISY * abs(self.value)

    def map(self, factor: float) -> Estimate:
        """The estimate in another unit."""
        by_pass = tuple(value * factor for value in self.by_pass)
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor, by_pass=by_pass)


def estimate(values: Sequence[float], passes: Sequence[int] = ()) -> Estimate:
    """The estimate of at least one value.

    Args:
        values: measurements.
        passes: number of each measurement's pass; empty if there are none.
    """
    low, median, high = (float(x) for x in np.percentile(np.asarray(values), (25, 50, 75)))
    if not passes:
        return Estimate(median, low, high, len(values))
    groups: dict[int, list[float]] = {}
    for value, number in zip(values, passes, strict=True):
        groups.setdefault(number, []).append(value)
    medians = [float(np.median(group)) for group in groups.values()]
    if len(medians) == 1:
        return Estimate(median, low, high, len(values), (median,))
    return over_passes(medians, len(values))


def over_passes(medians: Sequence[float], repeats: int) -> Estimate:
    """The estimate of a figure from the passes' medians.

    Args:
        medians: the median of each pass.
        repeats: number of measurements in all passes.
    """
    return Estimate(float(np.median(medians)), min(medians), max(medians), repeats, tuple(medians))


def rates(seconds: Sequence[float], rows: int, passes: Sequence[int] = ()) -> Estimate:
    """Rows per second from the seconds of each round's call."""
    return estimate([rows / s for s in seconds], passes)


def speedup(seconds: Sequence[float], baseline: Sequence[float], passes: Sequence[int] = ()) -> Estimate:
    """How many times faster than the baseline, each round compared with the same round: what slows a machine down slows both."""
    return estimate([b / s for s, b in zip(seconds, baseline, strict=True)], passes)
