"""The ops ``attention`` and ``packed_attention``: self-attention on the packed QKV projection, without copies of q, k or v.

Shapes: N batch, L tokens, H heads, D head size, T tokens of all sequences together. There is no backward pass.
"""

from __future__ import annotations

import torch

from kernels import reference
from kernels.attention_variants import check_variant
from kernels.library import call, register

SMALLEST_HEAD, LARGEST_HEAD = 16, 128


def _fake_attention(
    qkv: torch.Tensor,
    heads: int,
    causal: bool = False,
    key_padding: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    scale: float | None = None,
    variant: str = "triton",
) -> torch.Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3)


def _fake_packed_attention(
    qkv: torch.Tensor,
    heads: int,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    causal: bool = False,
    scale: float | None = None,
    variant: str = "triton",
) -> torch.Tensor:
    return qkv.new_empty(qkv.shape[0], qkv.shape[1] // 3)


_ATTENTION = register("attention", reference.attention, _fake_attention, "launchers:attention")
_PACKED = register("packed_attention", reference.packed_attention, _fake_packed_attention, "launchers:packed_attention")


def attention(
    qkv: torch.Tensor,
    heads: int,
    causal: bool = False,
    key_padding: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    scale: float | None = None,
    impl: str = "auto",
    variant: str = "triton",
) -> torch.Tensor:
    """Multi-head self-attention.

    Args:
        qkv: (N, L, 3·H·D) float16, bfloat16 or float32, rows ordered q, k, v, each H·D; any strides of N and L.
        heads: H.
        causal: whether a token attends only to itself and to the tokens before it.
        key_padding: bool (N, L), True where a token may be attended to. A query that may attend to no token gives zeros.
        rotary_cos, rotary_sin: tables (L, D), both halves alike: q and k are rotated by halves (RoFormer, arXiv:2104.09864).
        scale: factor of the scores, positive; 1/√D unless given.
        impl: "auto", "triton" or "native" (`kernels.library.call`).
        variant: the kernel that a GPU runs where `impl` is not "native" (`kernels.attention_variants`).

    Returns:
        (N, L, H·D), contiguous.

    Raises:
        ValueError: shapes or dtypes are not as above, D is odd with rotary tables or not within 16…128, or `impl` or `variant`
            cannot run.
    """
    if qkv.dim() != 3:
        raise ValueError(
            f"qkv has the shape {tuple(qkv.shape)}, not (N, L, 3·H·D); use packed_attention for (T, 3·H·D)"
        )
    head_size = _head_size(qkv, heads, scale)
    if key_padding is not None and (key_padding.dtype != torch.bool or key_padding.shape != qkv.shape[:2]):
        raise ValueError(
            f"key_padding is {key_padding.dtype} {tuple(key_padding.shape)}, expected bool {tuple(qkv.shape[:2])}"
        )
    if (rotary_cos is None) != (rotary_sin is None):
        raise ValueError("rotary_cos and rotary_sin belong together: give both or neither")
    for table in (rotary_cos, rotary_sin):
        if table is not None and (head_size % 2 or table.shape != (qkv.shape[1], head_size)):
            raise ValueError(
                f"a rotary table has the shape {tuple(table.shape)}, expected (L, D) = {(qkv.shape[1], head_size)}, D even"
            )
    check_variant(variant, key_padding is not None, rotary_cos is not None)
    return call(_ATTENTION, impl, qkv, heads, causal, key_padding, rotary_cos, rotary_sin, scale, variant)


def packed_attention(
    qkv: torch.Tensor,
    heads: int,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    causal: bool = False,
    scale: float | None = None,
    impl: str = "auto",
    variant: str = "triton",
) -> torch.Tensor:
    """Multi-head self-attention within each of N sequences laid end to end, without padding.

    Args:
        qkv: (T, 3·H·D), see `attention`.
        heads: H.
        cu_seqlens: int32 (N + 1), starts of the sequences, from 0 to T and never falling.
        max_seqlen: the longest sequence's length, or more; tokens beyond it are not computed, and this is not checked.
        causal, scale, impl, variant: see `attention`; there is no "cudnn".

    Returns:
        (T, H·D), contiguous.

    Raises:
        ValueError: shapes or dtypes are not as above, or `impl` cannot run.
    """
    if qkv.dim() != 2:
        raise ValueError(f"qkv has the shape {tuple(qkv.shape)}, not (T, 3·H·D); use attention for (N, L, 3·H·D)")
    _head_size(qkv, heads, scale)
    if cu_seqlens.dim() != 1 or cu_seqlens.dtype != torch.int32:
        raise ValueError(f"cu_seqlens is {cu_seqlens.dtype} {tuple(cu_seqlens.shape)}, expected int32 (N + 1,)")
    check_variant(variant, masked=False, rotated=False)
    if variant == "cudnn":
        raise ValueError("variant 'cudnn' takes no packed sequences: use 'flash' or 'triton'")
    return call(_PACKED, impl, qkv, heads, cu_seqlens, max_seqlen, causal, scale, variant)


def _head_size(qkv: torch.Tensor, heads: int, scale: float | None) -> int:
    width = qkv.shape[-1]
    if heads < 1 or width % (3 * heads) or not SMALLEST_HEAD <= width // (3 * heads) <= LARGEST_HEAD:
        raise ValueError(
            f"qkv of width {width} with {heads} heads has no head size from {SMALLEST_HEAD} to {LARGEST_HEAD}: "
            "its width is 3·H·D"
        )
    if scale is not None and scale <= 0:
        raise ValueError(f"scale {scale} is not positive; negate the rows of q instead")
    return width // (3 * heads)
