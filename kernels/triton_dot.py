"""The matrix product of tiles, also for bfloat16 in Triton's interpreter, whose own product is wrong there."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from kernels.library import interpreted

# Whether operands are widened to float32, because the interpreter keeps bfloat16 as 16-bit integers and multiplies those. Products
# of widened operands are exact, as on a GPU.
WIDEN = tl.constexpr(interpreted())


@triton.jit
def dot(
    a,  # (M, K)
    b,  # (K, N)
    total,  # (M, N) float32
):
    """The sum ``total + a b`` in float32; float32 operands are not rounded to TF32."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")
