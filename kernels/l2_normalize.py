"""The op ``l2_normalize``: embeddings to unit length, in float32."""

from __future__ import annotations

import torch

from kernels import reference
from kernels.library import call, register


def _fake(x: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    return torch.empty(x.shape, dtype=torch.float64 if x.dtype == torch.float64 else torch.float32, device=x.device)


_OP = register("l2_normalize", reference.l2_normalize, _fake, launcher="triton_l2_normalize:launch")


def l2_normalize(x: torch.Tensor, eps: float = 1e-12, impl: str = "auto") -> torch.Tensor:
    """Rows (..., C) divided by their length, or by `eps` where the length is smaller, in float32.

    Args:
        x: rows in half, bfloat16 or float32.
        eps: smallest divisor, so that rows of zeros stay zeros.
        impl: "auto", "triton" or "native", see `kernels.library.call`.

    Raises:
        ValueError: `impl` is another name, "triton" is given where no kernel can run, or rows are wider than a tile (16,384).
    """
    return call(_OP, impl, x, eps)
