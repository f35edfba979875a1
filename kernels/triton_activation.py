# mypy: disallow-untyped-decorators=False
"""GELU in its three forms, for the epilogues of Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

FORMS = {"none": 0, "tanh": 1, "quick": 2}


@triton.jit
def gelu(x: tl.tensor, FORM: tl.constexpr) -> tl.tensor:
    """GELU of float32 values: exact, by tanh, or x·sigmoid(1.702·x)."""
    if FORM == 0:
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if FORM == 1:
        # 0.5·(1 + tanh(u)) is sigmoid(2·u): no tanh needed, and no cancellation for negative x.
        return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    return x / (1.0 + tl.exp(-1.702 * x))
