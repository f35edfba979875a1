"""What is said about repeated measurements: the median, the quartiles around it, and ratios round by round.

Rounds of one pass share their processes and their minute. The median is taken over the passes' medians, the quartiles are widened
to hold each of these, and how far the passes lie apart is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

NOISY = 0.10  # quartiles further apart than this share of the median


@dataclass(frozen=True)
class Estimate:
    """A median with what lies around it.

    Attributes:
        value: the median; of several passes, of their medians.
        low, high: the first and the third quartile of all measurements, or the lowest and the highest median of a pass where that
            is further away.
        repeats: measurements.
        passes: that they were made in; 0 where there are none.
        spread: standard deviation of the logarithms of the passes' medians; None below two passes, or where one is not positive.
    """

    value: float
    low: float
    high: float
    repeats: int
    passes: int = 0
    spread: float | None = None

    @property
    def noisy(self) -> bool:
        """Whether low and high are too far apart to rely on the median."""
        return self.high - self.low > NOISY * abs(self.value)

    def map(self, factor: float) -> Estimate:
        """In another unit."""
        return replace(self, value=self.value * factor, low=self.low * factor, high=self.high * factor)


def estimate(values: Sequence[float], passes: Sequence[int] = ()) -> Estimate:
    """Of at least one value.

    Args:
        values: measurements.
        passes: number of the pass that each was made in; empty if there are none.
    """
    low, median, high = (float(x) for x in np.percentile(np.asarray(values), (25, 50, 75)))
    if not passes:
        return Estimate(median, low, high, len(values))
    groups: dict[int, list[float]] = {}
    for value, number in zip(values, passes, strict=True):
        groups.setdefault(number, []).append(value)
    return over_passes([float(np.median(group)) for group in groups.values()], low, high, len(values))


def over_passes(medians: Sequence[float], low: float, high: float, repeats: int) -> Estimate:
    """The estimate of a figure from what each pass says.

    Args:
        medians: of each pass.
        low, high: quartiles over all measurements.
        repeats: measurements.
    """
    spread = float(np.std(np.log(medians), ddof=1)) if len(medians) > 1 and min(medians) > 0 else None
    return Estimate(
        float(np.median(medians)), min(low, *medians), max(high, *medians), repeats, passes=len(medians), spread=spread
    )


def rates(seconds: Sequence[float], rows: int, passes: Sequence[int] = ()) -> Estimate:
    """Rows per second from the seconds of each round's call."""
    return estimate([rows / s for s in seconds], passes)


def speedup(seconds: Sequence[float], baseline: Sequence[float], passes: Sequence[int] = ()) -> Estimate:
    """How many times faster than the baseline, each round compared with the same round: what slows a machine down slows both."""
    return estimate([b / s for s, b in zip(seconds, baseline, strict=True)], passes)
