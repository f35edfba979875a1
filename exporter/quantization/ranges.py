"""The candidates for the limit at which a layer's inputs are clipped, from a histogram of their magnitudes.

A range up to the largest value ever seen wastes resolution on a few outliers; a range that is too narrow clips values that matter.
The best range differs from layer to layer, so `exporter.quantization.choosing` tries every candidate on kept inputs, and the error
of the layer's *output* decides.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from exporter.quantization.operators import LARGEST

BINS = 2048
PERCENTILES = (99.9, 99.99, 99.999, 99.9999)
_ENTROPY_STEPS = 64
_MSE_STEPS = 128


class Histogram:
    """A histogram of magnitudes from 0 on, in bins of equal width; its range doubles when a larger value comes."""

    def __init__(self) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.float64)
        self.top = 0.0  # the upper end of the last bin
        self.largest = 0.0

    def add(self, x: torch.Tensor) -> None:
        """Count the magnitudes of `x`, which must be finite."""
        magnitude = x.abs()
        largest = float(magnitude.max())
        self.largest = max(self.largest, largest)
        if largest == 0.0:
            self.counts[0] += x.numel()
            return
        if self.top == 0.0:
            self.top = 2.0 ** math.ceil(math.log2(largest))
        while largest > self.top:
            folded = self.counts.reshape(-1, 2).sum(dim=1)
            self.counts = torch.cat((folded, torch.zeros_like(folded)))
            self.top *= 2.0
        self.counts += torch.histc(magnitude.to(torch.float32), bins=BINS, min=0.0, max=self.top).to(torch.float64)

    def candidates(self, dtype: torch.dtype) -> dict[str, float]:
        """Compute candidate limits by the name of their method; empty if all counted values were zero."""
        if self.largest == 0.0:
            return {}
        counts = self.counts.numpy()
        limits = {"max": self.largest}
        share = np.cumsum(counts) / counts.sum()
        for percentile in PERCENTILES:
            limits[f"percentile {percentile:g}"] = self._end(int(np.searchsorted(share, percentile / 100.0)))
        limits["mse"] = self._end(least_squares(counts, self._last, LARGEST[dtype], dtype == torch.int8))
        if dtype == torch.int8:
            limits["entropy"] = self._end(least_divergence(counts, self._last))
        return {name: min(limit, self.largest) for name, limit in limits.items()}

    @property
    def _last(self) -> int:
        return int(np.flatnonzero(self.counts.numpy())[-1])

    def _end(self, index: int) -> float:
        return (min(index, BINS - 1) + 1) * self.top / BINS


def least_squares(counts: npt.NDArray[np.float64], last: int, largest: float, integers: bool) -> int:
    """Find the last bin of the range with the least squared rounding and clipping error."""
    centres = np.arange(last + 1) + 0.5
    weights = counts[: last + 1]
    best, chosen = math.inf, last
    for end in np.unique(np.linspace(last / 16, last, _MSE_STEPS).astype(int)):
        limit = end + 1.0
        inside = centres < limit
        if integers:
            rounding = (limit / largest) ** 2 / 12.0 * weights[inside].sum()
        else:  # with three bits of mantissa the error is proportional to the value
            rounding = float((weights[inside] * (centres[inside] / 16.0) ** 2 / 3.0).sum())
        clipping = float((weights[~inside] * (centres[~inside] - limit) ** 2).sum())
        if rounding + clipping < best:
            best, chosen = rounding + clipping, int(end)
    return chosen


def least_divergence(counts: npt.NDArray[np.float64], last: int, levels: int = 128) -> int:
    """Find the last bin of the range with the least Kullback-Leibler divergence (TensorRT's entropy calibration)."""
    best, chosen = math.inf, last
    if last < levels:
        return last
    for end in np.unique(np.linspace(levels, last + 1, _ENTROPY_STEPS).astype(int)):
        reference = counts[:end].copy()
        reference[-1] += counts[end:].sum()
        edges = np.linspace(0, end, levels + 1).astype(int)
        sums = np.add.reduceat(counts[:end], edges[:-1])
        used = np.add.reduceat((counts[:end] > 0).astype(float), edges[:-1])
        level = np.divide(sums, used, out=np.zeros_like(sums), where=used > 0)
        spread = np.repeat(level, np.diff(edges)) * (counts[:end] > 0)
        p, q = reference / reference.sum(), spread / max(spread.sum(), 1e-30)
        both = p > 0
        divergence = float((p[both] * np.log(p[both] / np.maximum(q[both], 1e-9))).sum())
        if divergence < best:
            best, chosen = divergence, int(end) - 1
    return chosen
