"""The op ``linear_gelu``: a linear layer with its GELU in the matrix product's epilogue."""

from __future__ import annotations

import torch

from kernels import reference
from kernels.library import call, check_dtypes, register

VARIANTS = ("triton", "tma", "cublaslt")


def _fake(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    approximate: str = "none",
    variant: str = "triton",
) -> torch.Tensor:
    return torch.empty((*x.shape[:-1], weight.shape[0]), dtype=x.dtype, device=x.device)


_OP = register("linear_gelu", reference.linear_gelu, _fake, launcher="launchers:linear_gelu")


def linear_gelu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    approximate: str = "none",
    impl: str = "auto",
    variant: str = "triton",
) -> torch.Tensor:
    """GELU of ``x weightᵀ + bias``: (..., K), (C, K), (C,) or None, to (..., C).

    Args:
        x: half, bfloat16 or float32; sums and GELU are computed in float32 (no TF32) and rounded once.
        weight: weight (C, K) of the same dtype, in the layout of `torch.nn.Linear`.
        bias: bias (C,) of the same dtype, or None.
        approximate: "none" (exact), "tanh" or "quick" (x·sigmoid(1.702·x)).
        impl: "auto", "triton" or "native", see `kernels.library.call`.
        variant: the kernel that a GPU runs where `impl` is not "native": "triton"; "tma", the same by tensor descriptors, on Hopper
            and data-centre Blackwell in half precision; "cublaslt", the vendor's epilogue, which has only GELU by tanh.

    Raises:
        ValueError: a name is none of these, tensors have different dtypes, "triton" is given where no kernel can run, or "cublaslt"
            is given without a bias or with another form of GELU than "tanh".
    """
    reference.check_approximate(approximate)
    check_dtypes(_OP, x, weight=weight, bias=bias)
    if variant not in VARIANTS:
        raise ValueError(f"variant={variant!r} of linear_gelu is none of {', '.join(VARIANTS)}")
    if variant == "cublaslt" and (bias is None or approximate != "tanh"):
        raise ValueError("variant 'cublaslt' is a bias and GELU by tanh: pass both, or use 'triton'")
    return call(_OP, impl, x, weight, bias, approximate, variant)
