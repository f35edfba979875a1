# mypy: disallow-untyped-decorators=False
"""The Triton kernel of ``bias_gelu``: one read and one write; a tile reads its columns' bias once for all of its rows."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from kernels.library import launchable
from kernels.rows import as_rows
from kernels.static import StaticCase
from kernels.triton_activation import FORMS, gelu

# Tiles with 16 elements a thread: two 16-byte loads in half precision. Every width of CLIP's MLPs is a multiple of 256 or of 128.
BLOCK_M = 8
BLOCK_N = 256
NUM_WARPS = 4


@triton.jit
def _bias_gelu_kernel(
    x_ptr: tl.tensor,  # (M, N), rows at row_stride
    bias_ptr: tl.tensor,  # (N,), or x again where there is no bias
    out_ptr: tl.tensor,  # (M, N) contiguous
    M: tl.tensor,
    row_stride: tl.tensor,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    FORM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    tiles: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    rows = (program // tiles).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = (program % tiles) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask = (rows < M)[:, None] & (columns < N)[None, :]
    x = tl.load(x_ptr + rows[:, None] * row_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        x += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    tl.store(
        out_ptr + rows[:, None] * N + columns[None, :],
        gelu(x, FORM, out_ptr.dtype.element_ty != tl.float32).to(out_ptr.dtype.element_ty),
        mask=mask,
    )


def launch(x: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none") -> torch.Tensor:
    """Run `kernels.reference.bias_gelu` by the kernel."""
    rows = as_rows(x)
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    grid = (triton.cdiv(rows.shape[0], BLOCK_M) * triton.cdiv(rows.shape[1], BLOCK_N),)
    launchable(_bias_gelu_kernel)[grid](
        rows,
        rows if bias is None else bias.contiguous(),
        out,
        rows.shape[0],
        rows.stride(0),
        N=rows.shape[1],
        HAS_BIAS=bias is not None,
        FORM=FORMS[approximate],
        BLOCK_M=BLOCK_M,
        BLOCK_N=BLOCK_N,
        num_warps=NUM_WARPS,
    )
    return out


def static_cases() -> list[StaticCase]:
    """Cases for the MLPs of ViT-B, L, bigG and H, for every dtype and form, with a bias and without."""
    cases = [(width, "fp16", "none", True) for width in (3072, 4096, 5120, 8192)]
    cases += [(4096, dtype, form, True) for dtype in ("fp16", "bf16", "fp32") for form in FORMS]
    cases += [(4096, "fp16", "quick", False), (1000, "fp16", "none", True)]
    return [_case(*case) for case in dict.fromkeys(cases)]


def _case(width: int, dtype: str, form: str, has_bias: bool) -> StaticCase:
    pointers = dict.fromkeys(("x_ptr", "bias_ptr", "out_ptr"), f"*{dtype}")
    return StaticCase(
        label=f"C={width} {form}{'' if has_bias else ' without bias'} {dtype}",
        kernel=_bias_gelu_kernel,
        signature={**pointers, "M": "i32", "row_stride": "i32"},
        constants={"N": width, "HAS_BIAS": has_bias, "FORM": FORMS[form], "BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N},
        num_warps=NUM_WARPS,
        num_stages=3,
        divisible=(*pointers, *(("row_stride",) if width % 16 == 0 else ())),
    )
