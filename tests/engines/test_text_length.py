"""engines.inputs.text_length: which ids count, and batches that hold every row once."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.inputs.text_length import needed_lengths, plan_batches
from engines.manifest import TextLength

IDS = np.array(
    [
        [9, 5, 99, 0, 0, 0],  # start, word, end, padding
        [9, 99, 0, 0, 0, 0],
        [9, 5, 5, 5, 5, 99],
        [0, 0, 0, 0, 0, 0],
        [9, 0, 5, 99, 0, 0],  # a word whose id is the pad id
    ],
    dtype=np.int32,
)


@pytest.mark.parametrize(
    ("keep", "extra", "expected"),
    [
        ("end", 0, [3, 2, 6, 2, 4]),
        ("padding", 0, [3, 2, 6, 2, 4]),
        ("padding", 1, [4, 3, 6, 2, 5]),
        ("fixed", 0, [6, 6, 6, 6, 6]),
    ],
)
def test_needed_lengths(keep: str, extra: int, expected: list[int]) -> None:
    rule = TextLength(keep=keep, extra=extra, min=2, max=6)  # type: ignore[arg-type]
    assert needed_lengths(IDS, rule, 0).tolist() == expected


def test_other_pad_id() -> None:
    rule = TextLength(keep="padding", extra=0, min=2, max=4)
    assert needed_lengths(np.array([[0, 7, 2, 1], [0, 2, 1, 1]]), rule, 1).tolist() == [3, 2]


def test_never_longer_than_the_rows() -> None:
    rule = TextLength(keep="fixed", extra=0, min=2, max=77)
    assert needed_lengths(IDS, rule, 0).tolist() == [6] * 5


@given(st.lists(st.integers(2, 77), min_size=1, max_size=300), st.integers(1, 64))
def test_batches_hold_every_row_once(lengths: list[int], size: int) -> None:
    array = np.array(lengths)
    batches = plan_batches(array, size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for rows in batches:
        assert 1 <= len(rows) <= size
        longest, shortest = array[rows].max(), array[rows].min()
        assert longest <= max(shortest * 1.25, shortest + 4)
