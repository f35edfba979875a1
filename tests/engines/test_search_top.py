"""The k best rows: equal to a full sort, whatever the blocks, with equal scores in the order of positions."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.search import top as top_module
from engines.search.half import subnormals_work, widened
from engines.search.top import TopK


def unit(rng: np.random.Generator, count: int, width: int, dtype: str) -> npt.NDArray[Any]:
    rows = rng.standard_normal((count, width)).astype(np.float32)
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(dtype)


def sorted_wholly(
    queries: npt.NDArray[Any], vectors: npt.NDArray[Any], positions: npt.NDArray[np.int64], k: int
) -> list[tuple[list[float], list[int]]]:
    """The definition: all scores in float64, sorted by score and position."""
    results = []
    for query in queries.astype(np.float64):
        scores = (vectors.astype(np.float64) * query).sum(axis=1)
        order = sorted(range(len(scores)), key=lambda i: (-scores[i], positions[i]))[:k]
        results.append(([float(scores[i]) for i in order], [int(positions[i]) for i in order]))
    return results


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    count=st.integers(0, 6000),
    distinct=st.integers(1, 400),
    queries=st.integers(1, 12),
    width=st.sampled_from([1, 3, 64, 512]),
    k=st.sampled_from([1, 2, 20, 500, 7000]),
    dtype=st.sampled_from(["float16", "float32"]),
    cuts=st.lists(st.integers(0, 6000), max_size=5),
)
def test_equal_to_a_full_sort(
    seed: int, count: int, distinct: int, queries: int, width: int, k: int, dtype: str, cuts: list[int]
) -> None:
    rng = np.random.default_rng(seed)
    rows = unit(rng, distinct, width, dtype)[rng.integers(0, distinct, count)]  # many rows are there several times
    positions = rng.permutation(10 * count)[:count].astype(np.int64)
    asked = unit(rng, queries, width, "float32")
    if distinct <= queries:
        asked[:distinct] = rows[:distinct].astype(np.float32) if len(rows) >= distinct else asked[:distinct]
    top = TopK(asked, k)
    edges = [0, *sorted(min(cut, count) for cut in cuts), count]
    for start, end in itertools.pairwise(edges):
        top.add(rows[start:end], positions[start:end])
    results = [(list(scores), list(found)) for scores, found in top.result()]
    assert results == sorted_wholly(asked, rows, positions, k)
    assert top.rows == count


def test_rows_that_float32_cannot_tell_apart() -> None:
    """Scores that differ by less than float32 rounds: the float64 score decides, not the matrix product."""
    rng = np.random.default_rng(1)
    query = unit(rng, 1, 512, "float32")
    base = unit(rng, 1, 512, "float32")[0]
    rows = np.repeat(base[None], 4000, axis=0)
    rows[np.arange(4000), rng.integers(0, 512, 4000)] *= np.float32(1 + 2**-20)
    positions = np.arange(4000)
    exact = (rows.astype(np.float64) * query[0].astype(np.float64)).sum(axis=1)
    product = np.argsort(-(rows @ query[0]), kind="stable")[:50]
    assert list(product) != list(np.argsort(-exact, kind="stable")[:50])  # so float32 alone would be wrong
    top = TopK(query, 50)
    for start in range(0, 4000, 700):
        top.add(rows[start : start + 700], positions[start : start + 700])
    assert [(list(s), list(p)) for s, p in top.result()] == sorted_wholly(query, rows, positions, 50)


def test_threads_in_any_order() -> None:
    rng = np.random.default_rng(2)
    rows = unit(rng, 300, 64, "float16")[rng.integers(0, 300, 40_000)]
    queries, positions = unit(rng, 3, 64, "float32"), np.arange(40_000)
    top = TopK(queries, 250)
    with ThreadPoolExecutor(4) as threads:
        starts = rng.permutation(np.arange(0, 40_000, 500))
        list(threads.map(lambda start: top.add(rows[start : start + 500], positions[start : start + 500]), starts))
    assert [(list(s), list(p)) for s, p in top.result()] == sorted_wholly(queries, rows, positions, 250)


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("queries", [1, 12])
def test_numbers_that_are_not_finite(wrong: float, queries: int) -> None:
    rows = unit(np.random.default_rng(0), 9, 8, "float16")
    rows[4, 2] = wrong
    with pytest.raises(ValueError, match="not finite"):
        TopK(unit(np.random.default_rng(1), queries, 8, "float32"), 2).add(rows, np.arange(9))


def test_every_float16_is_widened_exactly() -> None:
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
    finite = every[np.isfinite(every)]
    assert (widened(finite).view(np.uint32) == finite.astype(np.float32).view(np.uint32)).all()
    for wrong in every[~np.isfinite(every)]:
        with pytest.raises(ValueError):
            widened(np.array([0, wrong], np.float16))
    assert subnormals_work()
    assert widened(np.zeros((0, 3), np.float16)).shape == (0, 3)


def test_where_subnormal_numbers_are_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_module, "subnormals_work", lambda: False)
    rows = unit(np.random.default_rng(0), 300, 64, "float16")
    query = unit(np.random.default_rng(1), 1, 64, "float32")
    top = TopK(query, 9)
    top.add(rows, np.arange(300))
    assert [(list(s), list(p)) for s, p in top.result()] == sorted_wholly(query, rows, np.arange(300), 9)
