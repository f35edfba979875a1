from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.manifest import Profile, Range
from engines.tensorrt.shapes import Run, batch_buckets, length_bucket, plan_runs

LATENCY = Profile(batch=Range(min=1, opt=1, max=8), length=Range(min=2, opt=16, max=77))
THROUGHPUT = Profile(batch=Range(min=16, opt=64, max=256), length=Range(min=2, opt=16, max=77))


@st.composite
def profiles(draw: st.DrawFn) -> tuple[Profile, ...]:
    found = []
    for _ in range(draw(st.integers(1, 3))):
        low, best, high = sorted(draw(st.tuples(*[st.integers(1, 300)] * 3)))
        found.append(Profile(batch=Range(min=low, opt=best, max=high)))
    return tuple(found)


@given(rows=st.integers(1, 2000), profiles=profiles(), limit=st.none() | st.integers(1, 400))
def test_every_row_once_and_every_run_within_its_profile(
    rows: int, profiles: tuple[Profile, ...], limit: int | None
) -> None:
    runs = plan_runs(rows, None, profiles, limit)
    assert [run.start for run in runs] == [sum(r.rows for r in runs[:i]) for i in range(len(runs))]
    assert sum(run.rows for run in runs) == rows
    least = min(profile.batch.min for profile in profiles)
    for run in runs:
        batch = profiles[run.profile].batch
        assert 1 <= run.rows <= run.batch
        assert batch.min <= run.batch <= batch.max
        if limit is not None:
            assert run.batch <= max(limit, least) or run.batch == batch.min


@given(rows=st.integers(1, 256), profile=st.just(Profile(batch=Range(min=1, opt=32, max=256))))
def test_rounding_up_costs_at_most_half(rows: int, profile: Profile) -> None:
    (run,) = plan_runs(rows, None, [profile])
    assert run.batch <= max(1.5 * rows, rows + 1)


@given(st.integers(1, 77))
def test_length_buckets_hold_the_text(length: int) -> None:
    limits = Range(min=2, opt=16, max=77)
    bucket = length_bucket(length, limits)
    assert max(length, 2) <= bucket <= 77
    assert bucket == 77 or bucket % 8 == 0


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (1, [Run(0, 1, 0, 1, 16)]),
        (9, [Run(0, 8, 0, 8, 16), Run(8, 1, 0, 1, 16)]),  # padding to 16 would nearly double the work
        (12, [Run(0, 12, 1, 16, 16)]),  # padding to 16 is cheaper than a second run
        (70, [Run(0, 70, 1, 96, 16)]),
        (300, [Run(0, 256, 1, 256, 16), Run(256, 44, 1, 48, 16)]),
    ],
)
def test_a_latency_and_a_throughput_profile(rows: int, expected: list[Run]) -> None:
    assert plan_runs(rows, 12, [LATENCY, THROUGHPUT]) == expected


def test_buckets_include_the_profiles_own_sizes() -> None:
    assert batch_buckets(Range(min=5, opt=20, max=50)) == (5, 6, 8, 12, 16, 20, 24, 32, 48, 50)
