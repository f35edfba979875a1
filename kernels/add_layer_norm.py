"""``add_layer_norm``: the residual sum and its LayerNorm in one pass, both results out."""

from __future__ import annotations

import torch

from kernels import reference
from kernels.library import call, check_dtypes, register


def _fake(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    return (
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
        torch.empty(x.shape, dtype=x.dtype, device=x.device),
    )


_OP = register("add_layer_norm", reference.add_layer_norm, _fake, launcher="triton_add_layer_norm:launch")


def add_layer_norm(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    scale: torch.Tensor | None = None,
    impl: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor]:
    """``s = residual + x·scale`` and LayerNorm of s, both (..., C); the kernel normalizes s before it is rounded.

    Args:
        x: a branch's output, half, bfloat16 or float32 (..., C).
        residual: what it is added to, of the same shape and dtype.
        weight: of the LayerNorm (C,).
        bias: of the LayerNorm (C,).
        eps: of the LayerNorm.
        scale: layer scale (C,), if the block has one.
        impl: "auto", "triton" or "native", as in `kernels.library.call`.

    Raises ValueError for any other name, for tensors of different dtypes, for "triton" where no kernel can run, and for rows wider
    than a tile (16,384).
    """
    check_dtypes(_OP, x, residual=residual, weight=weight, bias=bias, scale=scale)
    total, normalized = call(_OP, impl, x, residual, weight, bias, eps, scale)
    return total, normalized
