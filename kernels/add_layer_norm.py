"""The op ``add_layer_norm``: the residual sum and its LayerNorm in one pass, with both results."""

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
    """The sum ``s = residual + x·scale`` and its LayerNorm, both (..., C); the kernel normalizes s before s is rounded.

    Args:
        x: a branch's output, half, bfloat16 or float32 (..., C).
        residual: the residual stream to which x is added, of the same shape and dtype.
        weight: the LayerNorm's weight (C,).
        bias: the LayerNorm's bias (C,).
        eps: the LayerNorm's epsilon.
        scale: layer scale (C,), if the block has one.
        impl: "auto", "triton" or "native", see `kernels.library.call`.

    Raises:
        ValueError: `impl` is another name, tensors have different dtypes, "triton" is given where no kernel can run, or rows are
            wider than a tile (16,384).
    """
    check_dtypes(_OP, x, residual=residual, weight=weight, bias=bias, scale=scale)
    total, normalized = call(_OP, impl, x, residual, weight, bias, eps, scale)
    return total, normalized
