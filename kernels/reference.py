"""The reference of every op in plain PyTorch: it defines the results, measures the kernels' errors, and runs on a CPU.

Each function has its op's signature. The functions use PyTorch's most accurate operations (`scaled_dot_product_attention`,
`layer_norm`), because a kernel is judged by their error in the same dtype, so that an inaccurate reference would be a loose limit.
All take float64, too.

Letters: N batch, L tokens, H heads, D head size, T tokens of all sequences together, C width, M rows, K inner size.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

APPROXIMATIONS = ("none", "tanh", "quick")


def check_approximate(approximate: str) -> None:
    """Raise ValueError unless `approximate` names one of GELU's three forms."""
    if approximate not in APPROXIMATIONS:
        raise ValueError(f"approximate={approximate!r} is not one of {', '.join(APPROXIMATIONS)}")


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate (..., L, D) by tables (L, D): rotary position embedding by halves (RoFormer, arXiv:2104.09864)."""
    first, second = x.chunk(2, dim=-1)
    return x * cos.to(x.dtype) + torch.cat((-second, first), dim=-1) * sin.to(x.dtype)


def attention(
    qkv: torch.Tensor,
    heads: int,
    causal: bool = False,
    key_padding: torch.Tensor | None = None,
    rotary_cos: torch.Tensor | None = None,
    rotary_sin: torch.Tensor | None = None,
    scale: float | None = None,
    variant: str = "triton",
) -> torch.Tensor:
    """Multi-head self-attention of (N, L, 3·H·D), rows ordered q, k, v, to (N, L, H·D); `variant` has an effect on a GPU only.

    `key_padding` is bool (N, L), True where a token may be attended to; a query without any key gives zeros. The tables
    `rotary_cos` and `rotary_sin` are (L, D). `scale` is 1/√D unless given.
    """
    n, length, width = qkv.shape
    q, k, v = qkv.reshape(n, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    if rotary_cos is not None and rotary_sin is not None:
        q, k = rotate(q, rotary_cos, rotary_sin), rotate(k, rotary_cos, rotary_sin)
    if key_padding is None:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale)
    else:
        mask = key_padding[:, None, None, :]
        if causal:
            mask = mask & torch.ones(length, length, dtype=torch.bool, device=qkv.device).tril()
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)
        # The result of a row without keys depends on the backend: NaN, zeros, or the mean of v.
        out = torch.where(mask.any(-1, keepdim=True), out, 0.0)
    return out.transpose(1, 2).reshape(n, length, width // 3)


def packed_attention(
    qkv: torch.Tensor,
    heads: int,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    causal: bool = False,
    scale: float | None = None,
    variant: str = "triton",
) -> torch.Tensor:
    """Self-attention within each of several sequences laid end to end: (T, 3·H·D) to (T, H·D).

    Sequence i is the rows ``cu_seqlens[i]:cu_seqlens[i + 1]``; `cu_seqlens` is int32 (N + 1), ends with T, and no sequence is
    longer than `max_seqlen`. The sequences are padded and attended to as one batch, so that no shape depends on data.
    """
    total = qkv.shape[0]
    starts = cu_seqlens[:-1].long()[:, None]
    place = torch.arange(max_seqlen, device=qkv.device)[None, :]
    valid = place < cu_seqlens[1:].long()[:, None] - starts
    rows = torch.where(valid, starts + place, total)
    padded = torch.cat((qkv, qkv.new_zeros(1, qkv.shape[1])))[rows]
    attended = attention(padded, heads, causal, valid, scale=scale).flatten(0, 1)
    out = attended.new_zeros(total + 1, attended.shape[1])
    return out.index_copy(0, rows.flatten(), attended)[:total]


def gelu(x: torch.Tensor, approximate: str) -> torch.Tensor:
    """GELU: exact ("none"), by tanh ("tanh"), or ``x·sigmoid(1.702·x)`` ("quick")."""
    check_approximate(approximate)
    return x * torch.sigmoid(1.702 * x) if approximate == "quick" else F.gelu(x, approximate=approximate)


def bias_gelu(x: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none") -> torch.Tensor:
    """GELU of ``x + bias``: (..., C), (C,) to (..., C)."""
    return gelu(x if bias is None else x + bias, approximate)


def linear_gelu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    approximate: str = "none",
    variant: str = "triton",
) -> torch.Tensor:
    """GELU of ``x weightᵀ + bias``: (..., K), (C, K), (C,) to (..., C); `variant` has an effect on a GPU only."""
    return gelu(F.linear(x, weight, bias), approximate)


def add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum ``s = residual + x·scale`` and its LayerNorm, both (..., C); `weight`, `bias` and the layer scale are (C,)."""
    total = residual + (x if scale is None else x * scale)
    return total, F.layer_norm(total, total.shape[-1:], weight, bias, eps)


def normalize_image(
    pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], patch: int, dtype: torch.dtype
) -> torch.Tensor:
    """Convert uint8 (N, H, W, 3) to patches (N, P, 3·patch²) of `dtype`, ``(pixel / 255 - mean) / std``.

    A patch's values are in the order of a row of ``conv1.weight.flatten(1)``: channel, then row, then column. Rows and
    columns of pixels that fill no whole patch are left out, as in a convolution with that stride.
    """
    n, height, width, _ = pixels.shape
    down, across = height // patch, width // patch
    working = torch.float64 if dtype == torch.float64 else torch.float32
    shift = torch.tensor(list(mean), dtype=working, device=pixels.device)
    spread = torch.tensor(list(std), dtype=working, device=pixels.device)
    normalized = (pixels[:, : down * patch, : across * patch].to(working) / 255 - shift) / spread
    patches = normalized.reshape(n, down, patch, across, patch, 3).permute(0, 1, 3, 5, 2, 4)
    return patches.reshape(n, down * across, 3 * patch * patch).to(dtype)


def l2_normalize(x: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """Rows (..., C) divided by their length, or by `eps` where the length is smaller; float32 (float64 for float64)."""
    x = x if x.dtype == torch.float64 else x.float()
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp_min(eps)
