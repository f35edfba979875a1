# mypy: disallow-untyped-decorators=False
"""GELU in its three forms, for the epilogues of Triton kernels."""

from __future__ import annotations

import triton
import triton.language as tl

FORMS = {"none": 0, "tanh": 1, "quick": 2}


@triton.jit
def gelu(x: tl.tensor, FORM: tl.constexpr, HALF: tl.constexpr) -> tl.tensor:
    """GELU of float32 values: exact, by tanh, or x·sigmoid(1.702·x); `HALF` if the result will be rounded to 16 bits."""
    if FORM == 0:
        if HALF:
            # erf by Abramowitz and Stegun 7.1.26, within 1.5e-7, in two thirds of the instructions of libdevice's erf, with which a
            # pass over memory would wait for arithmetic. `tail` is the normal distribution's tail beyond |x|, so nothing cancels.
            t = 1.0 / (1.0 + 0.2316418882663604 * tl.abs(x))
            q = t * (0.127414796 + t * (-0.142248368 + t * (0.7107068705 + t * (-0.7265760135 + t * 0.5307027145))))
            tail = q * tl.exp2(-0.7213475204444817 * x * x)
            return x * tl.where(x > 0, 1.0 - tail, tail)
        return 0.5 * x * (1.0 + tl.erf(x * 0.7071067811865476))
    if FORM == 1:
        # 0.5·(1 + tanh(u)) is sigmoid(2·u), which needs no tanh and does not cancel for negative x.
        return x / (1.0 + tl.exp(-1.5957691216057308 * (x + 0.044715 * x * x * x)))
    return x / (1.0 + tl.exp(-1.702 * x))
