"""``linear_gelu``: a linear layer with its GELU in the matrix product's epilogue."""

from __future__ import annotations

import torch

from kernels import reference
from kernels.library import call, check_dtypes, register


def _fake(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none") -> torch.Tensor:
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device)


_OP = register("linear_gelu", reference.linear_gelu, _fake, launcher="triton_linear_gelu:launch")


def linear_gelu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    approximate: str = "none",
    impl: str = "auto",
) -> torch.Tensor:
    """GELU of ``x weightᵀ + bias``: (..., K), (C, K), (C,) or None, to (..., C).

    Args:
        x: half, bfloat16 or float32; summed and activated in float32 (no TF32), rounded once.
        weight: of the same dtype, as `torch.nn.Linear` keeps it.
        bias: of the same dtype.
        approximate: "none" (exact), "tanh" or "quick" (x·sigmoid(1.702·x)).
        impl: "auto", "triton" or "native", as in `kernels.library.call`.

    Raises ValueError for any other name, for tensors of different dtypes, and for "triton" where no kernel can run.
    """
    reference.check_approximate(approximate)
    check_dtypes(_OP, x, weight=weight, bias=bias)
    return call(_OP, impl, x, weight, bias, approximate)
