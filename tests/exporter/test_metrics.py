"""Metrics against brute force, closed forms and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats

from exporter.gate.metrics import (
    Z95,
    change,
    design_effect,
    embedding_distance,
    label_ranks,
    retrieval_ranks,
    share,
    tango,
    wilson,
)

seeds = st.integers(0, 2**32 - 1)


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_is_scipys(case: tuple[int, int]) -> None:
    hits, samples = case
    expected = stats.binomtest(hits, samples).proportion_ci(0.95, method="wilson")
    low, high = wilson(hits, samples)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert 0 <= low <= hits / samples <= high <= 1


def score_by_maximization(gained: int, lost: int, samples: int, delta: float) -> float:
    """Tango's statistic with the nuisance parameter found by maximizing the likelihood numerically."""

    def cost(q: float) -> float:
        p, rest = q + delta, 1 - 2 * q - delta
        pairs = ((gained, p), (lost, q), (samples - gained - lost, rest))
        return -sum(count * math.log(max(value, 1e-300)) for count, value in pairs if count)

    low, high = max(0.0, -delta), (1 - delta) / 2
    q = optimize.minimize_scalar(cost, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x
    variance = samples * (2 * q + delta * (1 - delta))
    return (gained - lost - samples * delta) / math.sqrt(variance)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 300))
def test_tango_inverts_the_score_test(gained: int, lost: int, same: int) -> None:
    samples = gained + lost + same
    if samples < 5:
        return
    low, high = tango(gained, lost, samples)
    assert -1 <= low <= (gained - lost) / samples <= high <= 1
    for end, sign in ((low, 1), (high, -1)):
        if abs(end) < 0.98:
            assert score_by_maximization(gained, lost, samples, end) == pytest.approx(sign * Z95, abs=2e-3)


def test_tango_swaps_and_narrows() -> None:
    low, high = tango(12, 5, 200)
    assert tango(5, 12, 200) == pytest.approx((-high, -low), abs=1e-9)
    # Nothing changed: what N samples can exclude, in closed form.
    assert tango(0, 0, 1000)[1] == pytest.approx(Z95**2 / (1000 + Z95**2), abs=1e-9)


def test_intervals_cover_what_they_claim() -> None:
    """Of many experiments about 95 % have the truth inside: at least 93 % for these small ones."""
    rng = np.random.default_rng(0)
    eager = rng.random((600, 120)) < 0.8
    engine = np.where(rng.random(eager.shape) < 0.06, rng.random(eager.shape) < 0.5, eager)
    truth = 0.06 * (0.5 - 0.8)
    inside = [c.low <= truth <= c.high for c in map(change, engine, eager)]
    assert np.mean(inside) > 0.93
    # 30 pictures with 4 captions each, right together or wrong together: independent samples would be too sure of it.
    groups = np.repeat(np.arange(30), 4)
    hits = np.repeat(rng.random((600, 30)) < 0.8, 4, axis=1)
    assert np.mean([s.low <= 0.8 <= s.high for s in (share(row, groups) for row in hits)]) > 0.93
    assert np.mean([s.low <= 0.8 <= s.high for s in (share(row) for row in hits)]) < 0.8


def test_design_effect() -> None:
    rng = np.random.default_rng(1)
    groups = np.repeat(np.arange(400), 5)
    same = np.repeat(rng.random(400), 5)
    assert design_effect(same, groups) == pytest.approx(5, rel=0.02)
    assert design_effect(rng.random(2000), groups) == pytest.approx(1, abs=0.2)
    assert design_effect(np.ones(2000), groups) == 5
    assert design_effect(same, None) == 1
    assert design_effect(rng.random(10), np.zeros(10)) == 10


@settings(deadline=None)
@given(seeds, st.integers(1, 20), st.integers(2, 12))
def test_label_ranks_by_sorting(seed: int, samples: int, classes: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 4, (samples, classes)).astype(np.float64)  # many ties
    labels = rng.integers(0, classes, samples)
    order = np.argsort(-scores, axis=1, kind="stable")
    expected = [list(row).index(label) for row, label in zip(order, labels, strict=True)]
    ranks = label_ranks(scores, labels)
    assert ranks.tolist() == expected
    assert (ranks == 0).tolist() == (scores.argmax(axis=1) == labels).tolist()


@settings(deadline=None, max_examples=50)
@given(seeds, st.integers(1, 300), st.integers(1, 12))
def test_retrieval_ranks_by_sorting(seed: int, queries: int, items: int) -> None:
    rng = np.random.default_rng(seed)
    left = rng.integers(-2, 3, (queries, 2)).astype(np.float32)
    right = rng.integers(-2, 3, (items, 2)).astype(np.float32)
    relevant = [sorted(rng.choice(items, rng.integers(1, items + 1), replace=False).tolist()) for _ in range(queries)]
    expected = []
    for row, wanted in zip(left @ right.T, relevant, strict=True):
        order = np.argsort(-row, kind="stable").tolist()
        expected.append(min(order.index(item) for item in wanted))
    assert retrieval_ranks(left, right, relevant).tolist() == expected


def test_what_is_not_a_number_is_wrong() -> None:
    scores = np.array([[np.nan, 1.0], [np.nan, np.nan], [0.0, 1.0]])
    assert label_ranks(scores, np.array([0, 0, 1])).tolist() == [2, 2, 0]
    broken = np.array([[np.nan, 0.0]])
    assert retrieval_ranks(broken, np.eye(2), [[0]]).tolist() == [2]


def test_a_model_that_tells_nothing_apart_is_right_by_chance() -> None:
    labels = np.arange(100) % 10
    assert np.mean(label_ranks(np.ones((100, 10)), labels) == 0) == 0.1
    same = np.ones((100, 4))
    assert np.mean(retrieval_ranks(same, same, [[i] for i in range(100)]) == 0) == 0.01


@settings(deadline=None)
@given(seeds, st.integers(1, 200))
def test_embedding_distance(seed: int, samples: int) -> None:
    rng = np.random.default_rng(seed)
    exact = rng.normal(size=(samples, 8))
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    other = exact + rng.normal(size=exact.shape) * 0.01
    cosines = (exact * other).sum(axis=1) / np.linalg.norm(other, axis=1)
    found = embedding_distance(exact, other)
    assert found.min_cosine == pytest.approx(cosines.min())
    assert found.p1_cosine == pytest.approx(np.percentile(cosines, 1))
    assert found.mean_cosine == pytest.approx(cosines.mean())
    assert found.max_abs_error == pytest.approx(np.abs(exact - other).max())
    assert found.samples == samples


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="needs samples"):
        share([])
    with pytest.raises(ValueError, match="cannot be paired"):
        change([True], [True, False])
