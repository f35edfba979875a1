"""The smallest kernel that tells in which precision a number was handed over."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def scaling_kernel(
    x_ptr,  # (32,)
    out_ptr,  # (32,)
    factor,
):
    place = tl.arange(0, 32)
    tl.store(out_ptr + place, tl.load(x_ptr + place).to(tl.float32) * factor)
