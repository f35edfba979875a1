"""Attention's kernels in Triton's interpreter, on the CPU: the numbers, over awkward shapes and values."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import attention_cases as cases
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Interpret = Callable[..., Any]
DTYPES = tuple(cases.DTYPES)

# Every length, head size, mode and layout appears in a few of these, every mode with one tile of keys and with several.
SOME = [
    *((length, 64, 1, "fp16", "plain", "contiguous") for length in cases.LENGTHS),
    *((50, head_size, 3, "fp16", "plain", "contiguous") for head_size in cases.HEAD_SIZES),
    *((257, head_size, 1, "bf16", "plain", "contiguous") for head_size in (64, 112)),
    (577, 80, 1, "fp16", "causal", "contiguous"),
    *((length, 80, 3, "fp16", mode, "contiguous") for mode in cases.MODES for length in (2, 77)),
    (257, 64, 3, "fp16", "causal-padding", "contiguous"),
    *((300, 88, 2, "fp16", mode, "contiguous") for mode in cases.MODES[1:]),
    *((length, 64, 1, "fp32", "plain", "contiguous") for length in cases.LENGTHS[:5]),
    *((50, 104, 1, "fp32", mode, "contiguous") for mode in cases.MODES),
    *((77, 64, 1, "bf16", mode, "contiguous") for mode in cases.MODES),
    *((50, 64, 3, "fp16", "causal-padding", layout) for layout in cases.LAYOUTS),
    *((100, 16, 2, dtype, "causal", "contiguous") for dtype in DTYPES),
    *((130, 128, 1, dtype, "plain", "contiguous") for dtype in DTYPES),
    (33, 36, 2, "fp16", "rotary", "rows-apart"),
    (9, 17, 2, "fp16", "plain", "rows-apart"),
]
MORE = [
    *((257, head_size, 1, "bf16", "plain", "contiguous") for head_size in (80, 88, 104)),
    *((257, 64, 3, "fp16", mode, "contiguous") for mode in ("causal", "padding", "rotary")),
    (577, 112, 1, "fp16", "causal", "contiguous"),
    (1024, 64, 1, "fp16", "plain", "contiguous"),
]


@pytest.mark.parametrize(
    "case",
    [*SOME, *(pytest.param(case, marks=pytest.mark.slow) for case in MORE)],
    ids=lambda case: "-".join(map(str, case)),
)
def test_shapes(interpret: Interpret, case: tuple[Any, ...]) -> None:
    interpret(cases.grid_case, *case)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("head_size", cases.HEAD_SIZES)
@pytest.mark.parametrize("length", cases.LENGTHS)
def test_the_whole_grid(interpret: Interpret, length: int, head_size: int, dtype: str) -> None:
    for n, mode in itertools.product((1, 3), cases.MODES):
        interpret(cases.grid_case, length, head_size, n, dtype, mode, "contiguous" if n == 1 else "tokens-first")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("length", [1, 77, 300])
def test_large_logits(interpret: Interpret, length: int, dtype: str) -> None:
    interpret(cases.large_logits, length, dtype, "plain")
    interpret(cases.large_logits, length, dtype, "causal")
    interpret(cases.nearby_large_logits, length, dtype)


@pytest.mark.parametrize(
    ("length", "dtype"),
    [(2, "fp16"), (77, "bf16"), pytest.param(200, "fp16", marks=pytest.mark.slow), (300, "fp16"), (60, "fp32")],
)
def test_masked_rows_and_values_that_are_not_finite(interpret: Interpret, length: int, dtype: str) -> None:
    interpret(cases.masked_rows, length, dtype, False)
    interpret(cases.masked_rows, length, dtype, True)
    interpret(cases.infinite_scores, length, dtype)
    interpret(cases.nan_stays, length, dtype)


def test_the_scale_is_the_callers(interpret: Interpret) -> None:
    for dtype in DTYPES:
        interpret(cases.given_scale, dtype)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 100), min_size=1, max_size=4).filter(any),
    head_size=st.sampled_from([16, 64, 80]),
    dtype=st.sampled_from(DTYPES),
    causal=st.booleans(),
)
def test_packed_is_each_sequence_alone(
    interpret: Interpret, lengths: list[int], head_size: int, dtype: str, causal: bool
) -> None:
    interpret(cases.packed_is_each_alone, lengths, 2, head_size, dtype, causal)


def test_packed_beyond_one_tile(interpret: Interpret) -> None:
    interpret(cases.packed_is_each_alone, [5, 300, 1, 64], 1, 64, "fp16", True)
    interpret(cases.packed_is_each_alone, [290, 0, 7], 1, 80, "fp16", False)


@pytest.mark.parametrize("variant", ["loop-128x32-w4-s3", "loop-64x64-w4-s2", "single-32-w4", "single-128-w8"])
def test_variants(interpret: Interpret, variant: str) -> None:
    interpret(cases.variant_case, 50, 64, "plain", variant)
    interpret(cases.variant_case, 130, 80, "causal", variant)
    interpret(cases.variant_case, 77, 64, "packed", variant)
