"""What is said about repeated measurements: the median, the quartiles around it, and ratios round by round."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NOISY = 0.10  # quartiles further apart than this share of the median


@dataclass(frozen=True)
class Estimate:
    """A median with its quartiles.

    Attributes:
        value: the median.
        low, high: the first and the third quartile.
        repeats: measurements.
    """

    value: float
    low: float
    high: float
    repeats: int

    @property
    def noisy(self) -> bool:
        """Whether the quartiles are too far apart to rely on the median."""
        return self.high - self.low > NOISY * abs(self.value)

    def map(self, factor: float) -> Estimate:
        """In another unit."""
        return Estimate(self.value * factor, self.low * factor, self.high * factor, self.repeats)


def estimate(values: Sequence[float]) -> Estimate:
    """Of at least one value."""
    low, median, high = (float(x) for x in np.percentile(np.asarray(values), (25, 50, 75)))
    return Estimate(median, low, high, len(values))


def rates(seconds: Sequence[float], rows: int) -> Estimate:
    """Rows per second from the seconds of each round's call."""
    return estimate([rows / s for s in seconds])


def speedup(seconds: Sequence[float], baseline: Sequence[float]) -> Estimate:
    """How many times faster than the baseline, each round compared with the same round: what slows a machine down slows both."""
    return estimate([b / s for s, b in zip(seconds, baseline, strict=True)])
