"""The matrix product of tiles, which Triton's interpreter would get wrong for bfloat16."""
# mypy: disallow-untyped-decorators=False, disallow-untyped-defs=False, disallow-incomplete-defs=False

from __future__ import annotations

import triton
import triton.language as tl

from kernels.library import interpreted

# The interpreter keeps bfloat16 as 16-bit integers and multiplies those. Widened, the products are exact, as they are on a GPU.
WIDEN = tl.constexpr(interpreted())


@triton.jit
def dot(
    a,  # (M, K)
    b,  # (K, N)
    total,  # (M, N) float32
):
    """``total + a b`` in float32; float32 operands are not rounded to TF32."""
    if WIDEN:
        a = a.to(tl.float32)
        b = b.to(tl.float32)
    return tl.dot(a, b, total, input_precision="ieee")
