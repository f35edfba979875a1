"""The jitted kernel of ``attention`` and ``packed_attention``, with strided reads of the packed projection and no copies.

Two forms of the kernel share everything but the loop. Where all keys fit in one tile, a row's scores are complete before their
exponentials are taken, so there is no running maximum and no rescaling. With more keys, they are processed block by block with the
online softmax of FlashAttention-2 (arXiv:2307.08691). A tile need not be a power of two: along keys and along the head it is a
power of two and an optional smaller one, each with its own dot products (257 = 256 + 16, 80 = 64 + 16).
"""
# mypy: disallow-untyped-decorators=False, disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from kernels.triton_dot import dot


@triton.jit
def _load(
    base,  # first element of a head's rows
    rows,  # (R,)
    valid,  # (R,) bool
    columns,  # (C,)
    row_stride,
    cos_ptr,  # (L, D) contiguous
    sin_ptr,  # (L, D) contiguous
    D: tl.constexpr,
    ROTARY: tl.constexpr,
):
    """A tile (R, C) of q, k or v, with zeros outside; rotated by halves if `ROTARY`."""
    mask = valid[:, None] & (columns < D)[None, :]
    start = base + rows[:, None] * row_stride
    x = tl.load(start + columns[None, :], mask=mask, other=0.0)
    if ROTARY:
        first = columns < D // 2
        partner = tl.where(first, columns + D // 2, columns - D // 2)
        y = tl.load(start + partner[None, :], mask=mask, other=0.0).to(tl.float32)
        place = rows[:, None] * D + columns[None, :]
        cos = tl.load(cos_ptr + place, mask=mask, other=0.0).to(tl.float32)
        sin = tl.load(sin_ptr + place, mask=mask, other=0.0).to(tl.float32)
        x = (x.to(tl.float32) * cos + tl.where(first[None, :], -y, y) * sin).to(x.dtype)
    return x


@triton.jit
def _scores(
    q0,  # (BLOCK_M, D0)
    q1,  # (BLOCK_M, D1), unused where D1 is 0
    queries,  # (BLOCK_M,) positions
    keys,  # (BLOCK_N,) positions
    length,
    k_base,
    row_stride,
    padding_ptr,  # (L,) bool, this sequence's row
    padding_stride,
    cos_ptr,
    sin_ptr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    ROTARY: tl.constexpr,
    PADDING: tl.constexpr,
    CAUSAL: tl.constexpr,
):
    """Scores (BLOCK_M, BLOCK_N) before scaling, -inf where a query must not attend."""
    valid = keys < length
    k0 = _load(k_base, keys, valid, tl.arange(0, D0), row_stride, cos_ptr, sin_ptr, D, ROTARY)
    s = dot(q0, tl.trans(k0), tl.zeros((q0.shape[0], k0.shape[0]), dtype=tl.float32))
    if D1 > 0:
        k1 = _load(k_base, keys, valid, D0 + tl.arange(0, D1), row_stride, cos_ptr, sin_ptr, D, ROTARY)
        s = dot(q1, tl.trans(k1), s)
    if PADDING:
        valid &= tl.load(padding_ptr + keys * padding_stride, mask=valid, other=0) != 0
    keep = valid[None, :]
    if CAUSAL:
        keep = keep & (keys[None, :] <= queries[:, None])
    return tl.where(keep, s, float("-inf"))


@triton.jit
def _weighted(
    p,  # (BLOCK_M, BLOCK_N)
    total,  # (BLOCK_M, Dx) float32
    v_base,
    keys,  # (BLOCK_N,)
    columns,  # (Dx,)
    length,
    row_stride,
    D: tl.constexpr,
):
    """The sum ``total + p v`` for these columns of v."""
    v = _load(v_base, keys, keys < length, columns, row_stride, v_base, v_base, D, False)
    return dot(p.to(v.dtype), v, total)


@triton.jit
def attention_kernel(
    qkv_ptr,  # (N, L, 3·H·D), or (T, 3·H·D) where PACKED
    padding_ptr,  # (N, L) bool, or qkv again
    cos_ptr,  # (L, D) contiguous, or qkv again
    sin_ptr,  # (L, D) contiguous, or qkv again
    starts_ptr,  # (N + 1,) int32, or qkv again
    out_ptr,  # (N, L, H·D) or (T, H·D), contiguous
    length,  # L; the length of the longest sequence where PACKED
    batch_stride,
    row_stride,
    padding_batch_stride,
    padding_stride,
    SCALE: tl.constexpr,  # factor of the scores times log2(e)
    H: tl.constexpr,
    D: tl.constexpr,
    D0: tl.constexpr,
    D1: tl.constexpr,
    BLOCK_M: tl.constexpr,
    N0: tl.constexpr,
    N1: tl.constexpr,
    SINGLE: tl.constexpr,
    CAUSAL: tl.constexpr,
    PADDING: tl.constexpr,
    ROTARY: tl.constexpr,
    PACKED: tl.constexpr,
):
    """Attend with BLOCK_M queries of one head and one sequence. Programs count tiles of queries first, then heads, then sequences.

    They are all on one axis, because CUDA allows 65,535 programs on the others, and 4,096 captions of 16 heads are more.
    """
    tiles = tl.cdiv(length, BLOCK_M)
    sequence_and_head = tl.program_id(0) // tiles
    first_query = tl.program_id(0) % tiles * BLOCK_M
    n = (sequence_and_head // H).to(tl.int64)
    head = sequence_and_head % H
    if PACKED:
        start = tl.load(starts_ptr + n).to(tl.int64)
        length = (tl.load(starts_ptr + n + 1) - start).to(tl.int32)
        if first_query >= length:
            return
        q_base = qkv_ptr + start * row_stride + head * D
        out_base = out_ptr + start * (H * D) + head * D
    else:
        q_base = qkv_ptr + n * batch_stride + head * D
        out_base = out_ptr + n * length * (H * D) + head * D
    k_base = q_base + H * D
    v_base = q_base + 2 * H * D
    padding_base = padding_ptr + n * padding_batch_stride

    queries = first_query + tl.arange(0, BLOCK_M)
    columns0 = tl.arange(0, D0)
    q0 = _load(q_base, queries, queries < length, columns0, row_stride, cos_ptr, sin_ptr, D, ROTARY)
    q1 = q0
    o0 = tl.zeros((BLOCK_M, D0), dtype=tl.float32)
    if D1 > 0:
        columns1 = D0 + tl.arange(0, D1)
        q1 = _load(q_base, queries, queries < length, columns1, row_stride, cos_ptr, sin_ptr, D, ROTARY)
        o1 = tl.zeros((BLOCK_M, D1), dtype=tl.float32)

    if SINGLE:
        keys0 = tl.arange(0, N0)
        s0 = _scores(
            q0, q1, queries, keys0, length, k_base, row_stride, padding_base, padding_stride, cos_ptr, sin_ptr,
            D, D0, D1, ROTARY, PADDING, CAUSAL,
        )  # fmt: skip
        top = tl.max(s0, 1)
        if N1 > 0:
            keys1 = N0 + tl.arange(0, N1)
            s1 = _scores(
                q0, q1, queries, keys1, length, k_base, row_stride, padding_base, padding_stride, cos_ptr, sin_ptr,
                D, D0, D1, ROTARY, PADDING, CAUSAL,
            )  # fmt: skip
            top = tl.maximum(top, tl.max(s1, 1))
        # For a query without keys, exp2(-inf - 0) is 0, while -inf - -inf would be NaN.
        top = tl.where(top == float("-inf"), 0.0, top)
        # The difference comes before the scale, so that scores that are large and close to each other keep their digits.
        p0 = tl.exp2((s0 - top[:, None]) * SCALE)
        norm = tl.sum(p0, 1)
        o0 = _weighted(p0, o0, v_base, keys0, columns0, length, row_stride, D)
        if D1 > 0:
            o1 = _weighted(p0, o1, v_base, keys0, columns1, length, row_stride, D)
        if N1 > 0:
            p1 = tl.exp2((s1 - top[:, None]) * SCALE)
            norm += tl.sum(p1, 1)
            o0 = _weighted(p1, o0, v_base, keys1, columns0, length, row_stride, D)
            if D1 > 0:
                o1 = _weighted(p1, o1, v_base, keys1, columns1, length, row_stride, D)
    else:
        running = tl.full((BLOCK_M,), float("-inf"), dtype=tl.float32)
        norm = tl.zeros((BLOCK_M,), dtype=tl.float32)
        end = length
        if CAUSAL:
            end = tl.minimum(length, first_query + BLOCK_M)
        for first_key in range(0, end, N0):
            keys = first_key + tl.arange(0, N0)
            s = _scores(
                q0, q1, queries, keys, length, k_base, row_stride, padding_base, padding_stride, cos_ptr, sin_ptr,
                D, D0, D1, ROTARY, PADDING, CAUSAL,
            )  # fmt: skip
            top = tl.maximum(running, tl.max(s, 1))
            safe = tl.where(top == float("-inf"), 0.0, top)
            p = tl.exp2((s - safe[:, None]) * SCALE)
            shrink = tl.exp2((running - safe) * SCALE)
            norm = norm * shrink + tl.sum(p, 1)
            o0 = _weighted(p, o0 * shrink[:, None], v_base, keys, columns0, length, row_stride, D)
            if D1 > 0:
                o1 = _weighted(p, o1 * shrink[:, None], v_base, keys, columns1, length, row_stride, D)
            running = top

    norm = tl.where(norm == 0.0, 1.0, norm)[:, None]
    out = out_base + queries[:, None] * (H * D)
    mask = (queries < length)[:, None]
    tl.store(out + columns0[None, :], (o0 / norm).to(out_ptr.dtype.element_ty), mask=mask & (columns0 < D)[None, :])
    if D1 > 0:
        tl.store(out + columns1[None, :], (o1 / norm).to(out_ptr.dtype.element_ty), mask=mask & (columns1 < D)[None, :])
