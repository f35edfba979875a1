"""Metrics: accuracies with 95 % confidence intervals, and the distance between two sets of embeddings.

Samples are images. Several captions of one image are not independent of each other: where they are counted one by one, the
interval is that of fewer samples, by the design effect (Kish, 1965). Only numpy is needed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Z95 = 1.959963984540054
_CHUNK = 256  # the number of queries whose scores are in memory at a time


@dataclass(frozen=True)
class Estimate:
    """A share, or a difference of two shares, with the ends of its 95 % confidence interval and its number of samples."""

    value: float
    low: float
    high: float
    samples: int


def share(hits: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Estimate:
    """Compute the share of hits with Wilson's score interval, which stays within 0 to 1 and has a width at these ends, too.

    Args:
        hits: whether each sample is a hit, (N,) bool.
        groups: the group of each sample, (N,), if samples of one group are not independent.

    Raises:
        ValueError: there is no sample.
    """
    values = _samples(hits)
    low, high = wilson(float(values.sum()), len(values), design_effect(values, groups))
    return Estimate(float(values.mean()), low, high, len(values))


def change(hits: npt.ArrayLike, reference_hits: npt.ArrayLike, groups: npt.ArrayLike | None = None) -> Estimate:
    """Compute the share of hits minus the reference's share on the same samples, with Tango's score interval for paired samples.

    Only samples that exactly one of the two has right count, so the interval is far narrower than the two shares' own intervals;
    without such samples it is not empty but as wide as N samples require.

    Args:
        hits, reference_hits: whether each sample is a hit, (N,) bool.
        groups: the group of each sample, as for `share`.

    Raises:
        ValueError: there is no sample, or the numbers of samples differ.
    """
    ours, theirs = _samples(hits), _samples(reference_hits)
    if len(ours) != len(theirs):
        raise ValueError(f"{len(ours)} samples cannot be paired with {len(theirs)}")
    effect = design_effect(ours - theirs, groups)
    gained, lost = float(((ours - theirs) > 0).sum()), float(((ours - theirs) < 0).sum())
    low, high = tango(gained / effect, lost / effect, len(ours) / effect)
    return Estimate(float((ours - theirs).mean()), low, high, len(ours))


def wilson(hits: float, samples: float, effect: float = 1.0) -> tuple[float, float]:
    """Compute the ends of Wilson's 95 % score interval (1927) of a share, for `samples / effect` independent samples."""
    n, p = samples / effect, hits / samples
    centre = (p + Z95**2 / (2 * n)) / (1 + Z95**2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2)) / (1 + Z95**2 / n)
    return min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half))


def tango(gained: float, lost: float, samples: float) -> tuple[float, float]:
    """Compute the ends of the 95 % score interval for a difference of paired proportions (Tango, Statistics in Medicine 17, 1998).

    Args:
        gained: the number of samples that are right now and were wrong.
        lost: the number of samples that are wrong now and were right.
        samples: the number of all samples.
    """

    def score(delta: float) -> float:
        b = -gained - lost + (2 * samples - gained + lost) * delta
        root = math.sqrt(max(0.0, b * b + 8 * samples * lost * delta * (1 - delta)))
        q = max(0.0, (root - b) / (4 * samples))  # the most likely share of lost samples if the difference is delta
        variance = samples * (2 * q + delta * (1 - delta))
        distance = gained - lost - samples * delta
        return distance / math.sqrt(variance) if variance > 1e-12 else math.copysign(math.inf, distance)

    estimate = (gained - lost) / samples
    return _where_equal(score, Z95, -1.0, estimate), _where_equal(score, -Z95, estimate, 1.0)


def _where_equal(falling: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Find the argument at which a falling function has the value `target`, by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if falling(middle) > target:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def design_effect(values: npt.ArrayLike, groups: npt.ArrayLike | None) -> float:
    """Compute the factor by which the variance of a mean is larger for samples in groups than for independent ones; at least 1.

    Where the values do not vary the factor cannot be estimated, and every group counts as one sample.
    """
    if groups is None:
        return 1.0
    array = np.asarray(values, dtype=np.float64)
    _, index = np.unique(np.asarray(groups), return_inverse=True)
    count = int(index.max()) + 1
    n = len(array)
    residuals = array - array.mean()
    plain = float((residuals**2).sum()) / (n * max(n - 1, 1))
    if plain == 0 or count == 1:
        return n / count
    totals = np.bincount(index, weights=residuals, minlength=count)
    grouped = count / (count - 1) * float((totals**2).sum()) / n**2
    return min(max(grouped / plain, 1.0), float(np.bincount(index).max()))


def label_ranks(scores: npt.NDArray[np.floating], labels: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """Count the classes that each image prefers to its own: 0 where it is right, below 5 where its class is among the best five.

    Of equal scores the first class counts as the better one, so that a model with equal scores for all classes is right by chance.
    An image whose own score is not finite prefers all classes.

    Args:
        scores: the score of each image and class, (N, classes).
        labels: the class of each image, (N,).
    """
    rows = np.arange(len(scores))
    own_scores = scores[rows, labels][:, None]
    before = np.arange(scores.shape[1])[None] < labels[:, None]
    better = ((scores > own_scores) | ((scores == own_scores) & before)).sum(axis=1)
    return np.asarray(np.where(np.isfinite(own_scores[:, 0]), better, scores.shape[1]), dtype=np.int64)


def retrieval_ranks(
    queries: npt.NDArray[np.floating], items: npt.NDArray[np.floating], relevant: Sequence[Sequence[int]]
) -> npt.NDArray[np.int64]:
    """Count the wrong items that each query has before its first right one; recall@k is the share of ranks below k.

    Equal scores and scores that are not finite count as in `label_ranks`.

    Args:
        queries: the queries' embeddings, (N, D).
        items: the items' embeddings, (M, D).
        relevant: the indices of each query's right items, at least one.
    """
    ranks = np.empty(len(queries), dtype=np.int64)
    wide = items.astype(np.float64).T
    order = np.arange(len(items))[None]
    for start in range(0, len(queries), _CHUNK):
        scores = queries[start : start + _CHUNK].astype(np.float64) @ wide
        right = np.zeros(scores.shape, dtype=bool)
        for row, indices in enumerate(relevant[start : start + _CHUNK]):
            right[row, list(indices)] = True
        right_scores = np.where(right, scores, -np.inf)
        first = right_scores.argmax(axis=1)[:, None]
        best = np.take_along_axis(scores, first, axis=1)
        better = ((scores > best) | ((scores == best) & (order < first))).sum(axis=1)
        ranks[start : start + _CHUNK] = np.where(np.isfinite(best[:, 0]), better, len(items))
    return ranks


@dataclass(frozen=True)
class Distance:
    """The distance of embeddings from the reference's, over all samples."""

    min_cosine: float
    mean_cosine: float
    p1_cosine: float  # the first percentile: one sample in a hundred is below
    max_abs_error: float
    samples: int


def embedding_distance(reference: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> Distance:
    """Compute the cosines row by row, and the largest difference of any component.

    Args:
        reference, candidate: L2-normalized embeddings, (N, D).

    Raises:
        ValueError: the shapes differ, or there is no row.
    """
    from engines.verification.embeddings import compare_embeddings

    whole = compare_embeddings(reference, candidate)
    rows = [compare_embeddings(reference[i : i + 1], candidate[i : i + 1]).min_cosine for i in range(len(reference))]
    return Distance(
        whole.min_cosine, whole.mean_cosine, float(np.percentile(rows, 1)), whole.max_abs_error, whole.samples
    )


def _samples(hits: npt.ArrayLike) -> npt.NDArray[np.float64]:
    values = np.asarray(hits, dtype=np.float64)
    if values.ndim != 1 or not len(values):
        raise ValueError(f"a share needs samples (N,), not an array {values.shape}")
    return values
