# mypy: disallow-untyped-decorators=False
"""The Triton kernel of ``l2_normalize``: rows of any dtype to unit length, in float32."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.library import launchable
from kernels.rows import as_rows, row_tile
from kernels.static import StaticCase


@triton.jit
def _l2_normalize_kernel(
    x_ptr: tl.tensor,  # (M, C), rows at row_stride
    out_ptr: tl.tensor,  # (M, C) contiguous, float32
    row_stride: tl.tensor,
    EPS: tl.constexpr,  # a constant, because compilers may pass a Python float as float64
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < C
    x = tl.load(x_ptr + row * row_stride + columns, mask=mask, other=0.0).to(tl.float32)
    length = tl.sqrt(tl.sum(x * x, 0))
    # `where` and not `maximum`, because a NaN must stay a NaN and `maximum` would return EPS for it.
    tl.store(out_ptr + row * C + columns, x / tl.where(length < EPS, EPS, length), mask=mask)


def launch(x: torch.Tensor, eps: float = 1e-12) -> torch.Tensor:
    """Run `kernels.reference.l2_normalize` by the kernel. Raises ValueError for rows too wide for one tile."""
    rows = as_rows(x)
    count, width = rows.shape
    block, num_warps = row_tile(width)
    out = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    launchable(_l2_normalize_kernel)[(count,)](
        rows, out, rows.stride(0), EPS=eps, C=width, BLOCK=block, num_warps=num_warps
    )
    return out


def static_cases() -> list[StaticCase]:
    """Cases for the embedding sizes of CLIP's models."""
    return [_case(*case) for case in ((512, "fp16"), (768, "fp16"), (768, "bf16"), (1024, "fp32"), (1280, "fp16"))]


def _case(width: int, dtype: str) -> StaticCase:
    block, num_warps = row_tile(width)
    return StaticCase(
        label=f"C={width} {dtype}",
        kernel=_l2_normalize_kernel,
        signature={"x_ptr": f"*{dtype}", "out_ptr": "*fp32", "row_stride": "i32"},
        constants={"EPS": 1e-12, "C": width, "BLOCK": block},
        num_warps=num_warps,
        num_stages=3,
        divisible=("x_ptr", "out_ptr", "row_stride"),
    )
