"""Attention's kernels on a device: the same cases as in the interpreter, and what only a device can show."""

from __future__ import annotations

import itertools

import attention_cases as cases
import pytest
import torch

from kernels import reference
from kernels.attention import attention, packed_attention
from kernels.attention_variants import candidates, packed_candidates

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no NVIDIA GPU here"),
]


def named(case: tuple[object, ...]) -> str:
    return "-".join(map(str, case))


@pytest.mark.parametrize("case", dict.fromkeys([*cases.PAIRS, *cases.USUAL]), ids=named)
def test_shapes(case: tuple[int, int, int, str, str]) -> None:
    cases.grid_case(*case, device="cuda")


@pytest.mark.parametrize("layout", cases.LAYOUTS)
def test_layouts(layout: str) -> None:
    for head_size, dtype in ((64, "fp16"), (80, "bf16"), (112, "fp32")):
        cases.grid_case(77, head_size, 3, dtype, "causal-padding", layout, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("head_size", cases.HEAD_SIZES)
@pytest.mark.parametrize("length", cases.LENGTHS)
def test_the_whole_grid(length: int, head_size: int, dtype: str) -> None:
    for n, mode in itertools.product((1, 3), cases.MODES):
        cases.grid_case(length, head_size, n, dtype, mode, device="cuda")
    for layout in cases.LAYOUTS if length == 77 else ():
        cases.grid_case(length, head_size, 3, dtype, "causal-padding", layout, device="cuda")


@pytest.mark.parametrize(
    ("length", "dtype"), [(1, "fp16"), (77, "fp16"), (77, "bf16"), (300, "fp16"), (300, "fp32")], ids=str
)
def test_large_logits(length: int, dtype: str) -> None:
    large_logits(length, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("length", [1, 77, 300])
def test_large_logits_in_every_dtype(length: int, dtype: str) -> None:
    large_logits(length, dtype)


def large_logits(length: int, dtype: str) -> None:
    cases.large_logits(length, dtype, "plain", device="cuda")
    cases.large_logits(length, dtype, "causal", device="cuda")
    cases.nearby_large_logits(length, dtype, device="cuda")


@pytest.mark.parametrize(
    ("length", "dtype"), [(2, "fp16"), (77, "bf16"), (200, "fp16"), (300, "fp16"), (60, "fp32")], ids=str
)
def test_masked_rows_and_values_that_are_not_finite(length: int, dtype: str) -> None:
    odd_values(length, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("length", [2, 77, 200, 300])
def test_odd_values_in_every_dtype(length: int, dtype: str) -> None:
    odd_values(length, dtype)


def odd_values(length: int, dtype: str) -> None:
    cases.masked_rows(length, dtype, False, device="cuda")
    cases.masked_rows(length, dtype, True, device="cuda")
    cases.infinite_scores(length, dtype, device="cuda")
    cases.nan_stays(length, dtype, device="cuda")


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("head_size", "dtype"), [(64, "fp16"), (80, "bf16"), (112, "fp32")], ids=str)
def test_packed_is_each_sequence_alone(head_size: int, dtype: str, causal: bool) -> None:
    for lengths in ([5, 0, 77, 1, 20], [300, 7], [1], [257, 256, 255]):
        cases.packed_is_each_alone(lengths, 2, head_size, dtype, causal, device="cuda")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("head_size", cases.HEAD_SIZES)
def test_packed_in_every_size_and_dtype(head_size: int, causal: bool, dtype: str) -> None:
    for lengths in ([5, 0, 77, 1, 20], [300, 7], [1], [257, 256, 255]):
        cases.packed_is_each_alone(lengths, 2, head_size, dtype, causal, device="cuda")


def test_the_scale_is_the_callers() -> None:
    cases.given_scale("fp16", device="cuda")


def test_compilers_see_the_kernel() -> None:
    """One graph for every batch and length, with the same numbers; export keeps the op."""
    torch.compiler.reset()

    def attend(qkv: torch.Tensor) -> torch.Tensor:
        return attention(qkv, 2, True) * 2

    compiled = torch.compile(attend, fullgraph=True, dynamic=True)
    for n, length in ((3, 50), (2, 77), (5, 300)):
        qkv = cases.made(n, length, 2, 64, "fp16").cuda()
        exact = 2 * reference.attention(qkv.double(), 2, True)
        torch.testing.assert_close(compiled(qkv).double(), exact, rtol=0, atol=2e-2)
    starts = torch.tensor([0, 5, 25], dtype=torch.int32, device="cuda")
    packed = cases.made(1, 25, 2, 64, "fp16")[0].cuda()
    one = torch.compile(lambda x, s: packed_attention(x, 2, s, 20) * 1, fullgraph=True)
    torch.testing.assert_close(one(packed, starts), packed_attention(packed, 2, starts, 20))
    torch.library.opcheck(torch.ops.openclip_kernels.attention.default, (cases.made(3, 50, 2, 64, "fp16").cuda(), 2))


@pytest.mark.parametrize(("length", "head_size", "mode"), [(257, 64, "plain"), (50, 80, "causal"), (77, 64, "packed")])
def test_every_candidate_is_right(length: int, head_size: int, mode: str) -> None:
    """Ours in other tiles, FlashAttention and cuDNN: what `kernels.choices` may name."""
    major, minor = torch.cuda.get_device_capability()
    offered = packed_candidates if mode == "packed" else candidates
    for variant in offered(length, head_size, 10 * major + minor):
        cases.variant_case(length, head_size, mode, variant, device="cuda")
