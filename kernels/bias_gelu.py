"""The op ``bias_gelu``: bias and GELU in one pass over the activations."""

from __future__ import annotations

import torch

from kernels import reference
from kernels.library import call, check_dtypes, register


def _fake(x: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none") -> torch.Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


_OP = register("bias_gelu", reference.bias_gelu, _fake, launcher="triton_bias_gelu:launch")


def bias_gelu(
    x: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none", impl: str = "auto"
) -> torch.Tensor:
    """GELU of ``x + bias``: (..., C), (C,) or None, to (..., C).

    Args:
        x: half, bfloat16 or float32; GELU is computed in float32 and rounded once.
        bias: bias (C,) of the same dtype, or None.
        approximate: "none" (exact), "tanh" or "quick" (x·sigmoid(1.702·x)).
        impl: "auto", "triton" or "native", see `kernels.library.call`.

    Raises:
        ValueError: a name is none of these, tensors have different dtypes, or "triton" is given where no kernel can run.
    """
    reference.check_approximate(approximate)
    check_dtypes(_OP, x, bias=bias)
    return call(_OP, impl, x, bias, approximate)
