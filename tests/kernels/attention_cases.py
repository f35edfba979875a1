"""Inputs that attention must survive; run in Triton's interpreter or on a device."""

from __future__ import annotations

import torch
from kernel_bound import as_double, assert_bounded, check

from kernels import reference
from kernels.attention import attention, packed_attention

DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
LENGTHS = (1, 2, 50, 77, 197, 257, 577)
HEAD_SIZES = (64, 80, 88, 104, 112)
LAYOUTS = ("contiguous", "tokens-first", "rows-apart", "columns-apart")
MODES = ("plain", "causal", "padding", "causal-padding", "rotary")
# (length, head size, n, dtype, mode): so few that any two values of any two of them still meet.
# The whole grid is 1,050 points, and each is a kernel to be compiled.
PAIRS = [
    (length, HEAD_SIZES[(i + j) % 5], 1 if i % 2 == j % 2 else 3, tuple(DTYPES)[(i + 2 * j) % 3], mode)
    for i, length in enumerate(LENGTHS)
    for j, mode in enumerate(MODES)
]
# What the towers of the model list ask for most.
USUAL = [(length, 64, 3, "fp16", mode) for length in LENGTHS[2:] for mode in ("plain", "causal")]


def made(
    n: int, length: int, heads: int, head_size: int, dtype: str, layout: str = "contiguous", seed: int = 0
) -> torch.Tensor:
    """A packed projection (N, L, 3·H·D): contiguous, rows apart from each other, or tokens before batch."""
    generator = torch.Generator().manual_seed(seed)
    width = 3 * heads * head_size
    if layout == "tokens-first":
        return torch.randn(length, n, width, generator=generator).to(DTYPES[dtype]).transpose(0, 1)
    if layout == "rows-apart":
        return torch.randn(n, length + 3, width + 16, generator=generator).to(DTYPES[dtype])[:, 2:-1, 8:-8]
    if layout == "columns-apart":
        return torch.randn(n, length, 2 * width, generator=generator).to(DTYPES[dtype])[..., ::2]
    return torch.randn(n, length, width, generator=generator).to(DTYPES[dtype])


def tables(length: int, head_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary tables (L, D), both halves alike."""
    frequency = 10000.0 ** (-torch.arange(0, head_size, 2) / head_size)
    angle = (torch.arange(length)[:, None] * frequency).repeat(1, 2)
    return angle.cos(), angle.sin()


def padding(n: int, length: int) -> torch.Tensor:
    """Keys (N, L) that count: all of sequence 0, fewer of each later one, and never all of them missing."""
    return torch.arange(length)[None, :] < torch.arange(length, 0, -max(1, length // 3))[:n, None].clamp_min(1)


def grid_case(
    length: int, head_size: int, n: int, dtype: str, mode: str, layout: str = "contiguous", device: str = "cpu"
) -> None:
    """One point of the grid of shapes."""
    heads = 2 if length < 200 else 1
    qkv = made(n, length, heads, head_size, dtype, layout, seed=length * head_size + n)
    keys = padding(n, length) if "padding" in mode else None
    if keys is not None and len(keys) < n:
        keys = keys[:1].expand(n, -1)
    cos, sin = tables(length, head_size) if mode == "rotary" else (None, None)
    check(attention, reference.attention, qkv, heads, "causal" in mode, keys, cos, sin, None, device=device)


def variant_case(length: int, head_size: int, mode: str, variant: str, device: str = "cpu") -> None:
    """A variant of `kernels.attention_variants`, in float16; `mode` is "plain", "causal" or "packed"."""
    qkv = made(2, length, 2, head_size, "fp16", seed=length)
    if mode == "packed":
        starts = torch.tensor([0, length, length + length // 2], dtype=torch.int32)
        rows = qkv.flatten(0, 1)[: length + length // 2]
        got = packed_attention(rows.to(device), 2, starts.to(device), length, True, impl="triton", variant=variant)
        exact = reference.packed_attention(rows.double(), 2, starts, length, True)
        return assert_bounded(got.cpu(), reference.packed_attention(rows, 2, starts, length, True), exact)
    got = attention(qkv.to(device), 2, mode == "causal", impl="triton", variant=variant)
    exact = reference.attention(qkv.double(), 2, mode == "causal")
    return assert_bounded(got.cpu(), reference.attention(qkv, 2, mode == "causal"), exact)


def large_logits(length: int, dtype: str, mode: str, device: str = "cpu") -> None:
    """Scores up to ±1e4: softmax is a step, and a score's own rounding decides how far it is off."""
    qkv = made(1, length, 1, 64, dtype)
    q, k, _ = qkv.view(1, length, 3, 64).unbind(2)
    q.copy_(torch.where(torch.arange(length)[:, None] % 2 == 0, 1.0, -1.0) * q.abs().clamp(0.5, 1.5))
    k.copy_(torch.linspace(-1250, 1250, length)[:, None].expand(length, 64))
    scores = (q.float() @ k.float().transpose(1, 2)) / 8
    assert scores.abs().max() >= 9e3 or length < 3
    check(attention, reference.attention, qkv, 1, mode == "causal", device=device)


def nearby_large_logits(length: int, dtype: str, device: str = "cpu") -> None:
    """Scores near 1e4 that differ by little: scaling them before the difference is taken would lose the difference."""
    qkv = made(1, length, 1, 64, dtype)
    q, k, _ = qkv.view(1, length, 3, 64).unbind(2)
    q.fill_(32.0)
    k.fill_(39.0)
    k[..., 0] += torch.linspace(0, 1, length).to(k.dtype)
    check(attention, reference.attention, qkv, 1, device=device)


def masked_rows(length: int, dtype: str, causal: bool, device: str = "cpu") -> None:
    """A sequence without any key gives zeros; so do, in a causal one, the queries before its first key."""
    qkv = made(3, length, 2, 64, dtype)
    keys = torch.ones(3, length, dtype=torch.bool)
    keys[1] = False
    keys[2, : length // 2] = False
    got = check(attention, reference.attention, qkv, 2, causal, keys, device=device)
    assert got[1].eq(0).all()
    if causal:
        assert got[2, : length // 2].eq(0).all()


def infinite_scores(length: int, dtype: str, device: str = "cpu") -> None:
    """A key whose score is -inf has no weight, as long as another key is finite."""
    qkv = made(2, length, 1, 64, dtype)
    q, k, _ = qkv.view(2, length, 3, 64).unbind(2)
    q.copy_(q.abs() + 0.1)
    k[:, 1::2, 5] = -torch.inf
    got = check(attention, reference.attention, qkv, 1, device=device)
    assert got.isfinite().all()


def nan_stays(length: int, dtype: str, device: str = "cpu") -> None:
    """A query that is not a number gives no number, and spoils no other."""
    qkv = made(1, length, 1, 64, dtype)
    qkv[0, 1, :64] = torch.nan
    got = attention(qkv.to(device), 1, impl="triton")
    assert got[0, 1].isnan().all()
    assert got[0, 0].isfinite().all()
    assert got[0, 2:].isfinite().all()


def given_scale(dtype: str, device: str = "cpu") -> None:
    """The scale is the caller's."""
    qkv = made(1, 50, 2, 64, dtype)
    check(attention, reference.attention, qkv, 2, False, None, None, None, 0.5, device=device)


def packed_is_each_alone(
    lengths: list[int], heads: int, head_size: int, dtype: str, causal: bool, device: str = "cpu"
) -> None:
    """Sequences end to end give what each of them gives alone."""
    starts = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    qkv = made(1, sum(lengths), heads, head_size, dtype, seed=sum(lengths))[0]
    longest = max(lengths)
    got = packed_attention(qkv.to(device), heads, starts.to(device), longest, causal, impl="triton").cpu()
    alone = [
        (
            reference.attention(part[None], heads, causal)[0],
            reference.attention(as_double(part)[None], heads, causal)[0],
        )
        for part in qkv.split(lengths)
        if len(part)
    ]
    whole = reference.packed_attention(qkv, heads, starts, longest, causal)
    assert_bounded(got, *(torch.cat(parts) for parts in zip(*alone, strict=True)))
    assert_bounded(whole, *(torch.cat(parts) for parts in zip(*alone, strict=True)))
