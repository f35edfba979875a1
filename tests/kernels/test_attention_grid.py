"""The few points of attention's grid that the tests on a GPU compile by default: what they leave out, pairs do not show."""

from __future__ import annotations

import itertools

import attention_cases as cases


def test_any_two_values_meet() -> None:
    values = (cases.LENGTHS, cases.HEAD_SIZES, (1, 3), tuple(cases.DTYPES), cases.MODES)
    for one, other in itertools.combinations(range(len(values)), 2):
        met = {(case[one], case[other]) for case in cases.PAIRS}
        assert met == set(itertools.product(values[one], values[other])), (one, other)


def test_they_are_few() -> None:
    """Each is a kernel that is compiled for seconds; the 417 of before took more than the three minutes that there were."""
    assert len(set(cases.PAIRS) | set(cases.USUAL)) <= 45
