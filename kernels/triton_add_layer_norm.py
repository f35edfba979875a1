# mypy: disallow-untyped-decorators=False
"""The Triton kernel of ``add_layer_norm``: a row stays in registers from the residual sum to the normalized value."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.library import launchable
from kernels.rows import as_rows, row_tile
from kernels.static import StaticCase


@triton.jit
def _add_layer_norm_kernel(
    x_ptr: tl.tensor,  # (M, C), rows at x_stride
    residual_ptr: tl.tensor,  # (M, C), rows at residual_stride
    scale_ptr: tl.tensor,  # (C,), or x again where there is no layer scale
    weight_ptr: tl.tensor,  # (C,)
    bias_ptr: tl.tensor,  # (C,)
    sum_ptr: tl.tensor,  # (M, C) contiguous
    normalized_ptr: tl.tensor,  # (M, C) contiguous
    x_stride: tl.tensor,
    residual_stride: tl.tensor,
    EPS: tl.constexpr,  # a constant, because compilers may pass a Python float as float64
    C: tl.constexpr,
    HAS_SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    mask = columns < C
    x = tl.load(x_ptr + row * x_stride + columns, mask=mask, other=0.0).to(tl.float32)
    if HAS_SCALE:
        x *= tl.load(scale_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    x += tl.load(residual_ptr + row * residual_stride + columns, mask=mask, other=0.0).to(tl.float32)
    tl.store(sum_ptr + row * C + columns, x.to(sum_ptr.dtype.element_ty), mask=mask)
    centered = tl.where(mask, x - tl.sum(x, 0) / C, 0.0)
    inverse = 1.0 / tl.sqrt(tl.sum(centered * centered, 0) / C + EPS)
    weight = tl.load(weight_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + columns, mask=mask, other=0.0).to(tl.float32)
    normalized = centered * inverse * weight + bias
    tl.store(normalized_ptr + row * C + columns, normalized.to(normalized_ptr.dtype.element_ty), mask=mask)


def launch(
    x: torch.Tensor,
    residual: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Run `kernels.reference.add_layer_norm` by the kernel. Raises ValueError for rows too wide for one tile."""
    x_rows, residual_rows = as_rows(x), as_rows(residual)
    count, width = x_rows.shape
    block, num_warps = row_tile(width)
    total = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    normalized = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    launchable(_add_layer_norm_kernel)[(count,)](
        x_rows,
        residual_rows,
        x_rows if scale is None else scale.contiguous(),
        weight.contiguous(),
        bias.contiguous(),
        total,
        normalized,
        x_rows.stride(0),
        residual_rows.stride(0),
        EPS=eps,
        C=width,
        HAS_SCALE=scale is not None,
        BLOCK=block,
        num_warps=num_warps,
    )
    return total, normalized


def static_cases() -> list[StaticCase]:
    """Cases for every width of CLIP's towers in half precision, and for other dtypes and the layer scale at ViT-L's and bigG's."""
    cases = [(width, "fp16", False) for width in (512, 640, 768, 1024, 1280, 1408, 1664, 1792, 2048)]
    cases += [(w, dtype, scaled) for w in (1024, 1664) for dtype in ("bf16", "fp32") for scaled in (False, True)]
    return [_case(*case) for case in [*cases, (16384, "fp32", True)]]


def _case(width: int, dtype: str, scaled: bool) -> StaticCase:
    names = ("x_ptr", "residual_ptr", "scale_ptr", "weight_ptr", "bias_ptr", "sum_ptr", "normalized_ptr")
    block, num_warps = row_tile(width)
    return StaticCase(
        label=f"C={width}{' layer scale' if scaled else ''} {dtype}",
        kernel=_add_layer_norm_kernel,
        signature={**dict.fromkeys(names, f"*{dtype}"), "x_stride": "i32", "residual_stride": "i32"},
        constants={"EPS": 1e-5, "C": width, "HAS_SCALE": scaled, "BLOCK": block},
        num_warps=num_warps,
        num_stages=3,
        divisible=(*names, "x_stride", "residual_stride"),
    )
