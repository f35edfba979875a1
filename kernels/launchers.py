"""Launchers of the ops with several implementations on a GPU: this project's kernel, or a vendor's through PyTorch."""

from __future__ import annotations

import torch

from kernels.attention_variants import VENDORS


def attention(
    qkv: torch.Tensor,
    heads: int,
    causal: bool,
    key_padding: torch.Tensor | None,
    rotary_cos: torch.Tensor | None,
    rotary_sin: torch.Tensor | None,
    scale: float | None,
    variant: str,
) -> torch.Tensor:
    """Run `kernels.attention.attention` by one of `kernels.attention_variants`."""
    if variant not in VENDORS:
        from kernels import triton_attention

        return triton_attention.attention(qkv, heads, causal, key_padding, rotary_cos, rotary_sin, scale, variant)
    n, length, width = qkv.shape
    q, k, v = qkv.view(n, length, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4).unbind(0)
    if variant == "flash":
        out = torch.ops.aten._scaled_dot_product_flash_attention.default(q, k, v, 0.0, causal, False, scale=scale)[0]
    else:
        out = torch.ops.aten._scaled_dot_product_cudnn_attention.default(
            q, k, v, None, False, 0.0, causal, False, scale=scale
        )[0]
    return out.transpose(1, 2).reshape(n, length, width // 3)


def packed_attention(
    qkv: torch.Tensor,
    heads: int,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    causal: bool,
    scale: float | None,
    variant: str,
) -> torch.Tensor:
    """Run `kernels.attention.packed_attention` by one of `kernels.attention_variants`; PyTorch has no such call of cuDNN."""
    if variant != "flash":
        from kernels import triton_attention

        return triton_attention.packed_attention(qkv, heads, cu_seqlens, max_seqlen, causal, scale, variant)
    total, width = qkv.shape
    q, k, v = qkv.view(total, 3, heads, width // (3 * heads)).unbind(1)
    out = torch.ops.aten._flash_attention_forward.default(
        q, k, v, cu_seqlens, cu_seqlens, max_seqlen, max_seqlen, 0.0, causal, False, scale=scale
    )[0]
    return out.reshape(total, width // 3)


def linear_gelu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, approximate: str, variant: str
) -> torch.Tensor:
    """Run `kernels.linear_gelu.linear_gelu` by one of its variants."""
    if variant == "cublaslt":
        assert bias is not None  # the op checks it
        rows = x.reshape(-1, x.shape[-1])
        out = torch.ops.aten._addmm_activation.default(bias, rows, weight.t(), use_gelu=True)
        return out.reshape(*x.shape[:-1], weight.shape[0])
    if variant == "tma":
        from kernels import triton_linear_gelu_persistent

        return triton_linear_gelu_persistent.launch(x, weight, bias, approximate)
    from kernels import triton_linear_gelu

    return triton_linear_gelu.launch(x, weight, bias, approximate)
