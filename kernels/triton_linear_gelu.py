# mypy: disallow-untyped-decorators=False
"""The Triton kernel of ``linear_gelu``: a matrix product that adds the bias and applies GELU before its only write."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from kernels.library import interpreted, launchable
from kernels.rows import as_rows
from kernels.static import StaticCase
from kernels.triton_activation import FORMS, gelu

# Number of tiles along the rows in a group; the group's programs share their rows of x, which then stay in the L2 cache.
GROUP_M = 8
# Largest number of rows for which small tiles are tried, because so few large ones do not fill a GPU.
FEW_ROWS = 1024


@triton.jit
def _finish(
    total: tl.tensor,
    bias_ptr: tl.tensor,  # (N,), or x where there is no bias
    corner_ptr: tl.tensor,  # (rows_left, N) contiguous: the output from the tile's first row on
    first_column: tl.tensor,
    rows_left: tl.tensor,
    N: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    FORM: tl.constexpr,
) -> None:
    rows = tl.arange(0, total.shape[0])
    columns = first_column + tl.arange(0, total.shape[1])
    if HAS_BIAS:
        total += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
    value = gelu(total, FORM, corner_ptr.dtype.element_ty != tl.float32).to(corner_ptr.dtype.element_ty)
    mask = (rows < rows_left)[:, None] & (columns < N)[None, :]
    tl.store(corner_ptr + rows[:, None] * N + columns[None, :], value, mask=mask)


@triton.jit
def _linear_gelu_kernel(
    x_ptr: tl.tensor,  # (M, K), rows at x_stride
    weight_ptr: tl.tensor,  # (N, K), rows at weight_stride
    bias_ptr: tl.tensor,  # (N,), or x again where there is no bias
    out_ptr: tl.tensor,  # (M, N) contiguous
    M: tl.tensor,
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    N: tl.constexpr,
    K: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    FORM: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    HALVES: tl.constexpr,
) -> None:
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    program = tl.program_id(0)
    tiles_m = tl.cdiv(M, BLOCK_M)
    group = program // (GROUP_M * tiles_n)
    group_rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
    tile_m = group * GROUP_M + program % (GROUP_M * tiles_n) % group_rows
    tile_n = program % (GROUP_M * tiles_n) // group_rows

    rows = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    columns = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    depth = tl.arange(0, BLOCK_K)
    # Rows past the end wrap around, so that the loop needs no mask; the store leaves them out.
    x_ptrs = x_ptr + (rows % M).to(tl.int64)[:, None] * x_stride + depth[None, :]
    weight_ptrs = weight_ptr + (columns % N).to(tl.int64)[None, :] * weight_stride + depth[:, None]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for start in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            x = tl.load(x_ptrs)
            weight = tl.load(weight_ptrs)
        else:
            x = tl.load(x_ptrs, mask=depth[None, :] < K - start, other=0.0)
            weight = tl.load(weight_ptrs, mask=depth[:, None] < K - start, other=0.0)
        total = tl.dot(x, weight, total, input_precision="ieee")
        x_ptrs += BLOCK_K
        weight_ptrs += BLOCK_K
    corner = out_ptr + (tile_m * BLOCK_M).to(tl.int64) * N
    # Large tiles are finished in halves, because a whole tile and erf's values at the same time would spill registers.
    if HALVES:
        first, second = total.reshape(BLOCK_M, 2, BLOCK_N // 2).permute(0, 2, 1).split()
        _finish(first, bias_ptr, corner, tile_n * BLOCK_N, M - tile_m * BLOCK_M, N, HAS_BIAS, FORM)
        _finish(second, bias_ptr, corner, tile_n * BLOCK_N + BLOCK_N // 2, M - tile_m * BLOCK_M, N, HAS_BIAS, FORM)
    else:
        _finish(total, bias_ptr, corner, tile_n * BLOCK_N, M - tile_m * BLOCK_M, N, HAS_BIAS, FORM)


def _config(m: int, n: int, k: int, num_warps: int, num_stages: int) -> Any:
    halves = m * n > 64 * 32 * num_warps
    block = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": GROUP_M, "HALVES": halves}
    return triton.Config(block, num_warps=num_warps, num_stages=num_stages)


# Configurations by element size and by whether rows are few. Hopper's wgmma is best with 128 x 256 on 8 warps, Ampere's registers
# fit 128 x 128.
CONFIGS: dict[tuple[str, bool], list[Any]] = {
    ("half", False): [
        _config(128, 128, 64, 8, 3),
        _config(128, 256, 64, 8, 3),
        _config(256, 128, 64, 8, 3),
        _config(128, 128, 64, 4, 4),
        _config(128, 128, 32, 4, 4),
        _config(64, 256, 64, 8, 3),
    ],
    ("half", True): [
        _config(64, 64, 64, 4, 4),
        _config(64, 128, 64, 4, 4),
        _config(128, 64, 64, 4, 4),
        _config(32, 64, 128, 4, 3),
        _config(16, 64, 128, 4, 3),
        _config(16, 32, 128, 4, 4),
    ],
    ("float", False): [
        _config(64, 64, 16, 4, 3),
        _config(128, 64, 16, 8, 3),
        _config(64, 128, 16, 8, 3),
        _config(128, 128, 16, 8, 2),
    ],
    ("float", True): [_config(32, 32, 32, 4, 3), _config(64, 32, 32, 4, 3), _config(16, 64, 32, 4, 3)],
}
# The interpreter takes the first configuration, because it cannot time kernels.
_TUNED = {
    which: triton.autotune(configs[:1] if interpreted() else configs, key=["N", "K"])(_linear_gelu_kernel)
    for which, configs in CONFIGS.items()
}


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none") -> torch.Tensor:
    """Run `kernels.reference.linear_gelu` by this kernel.

    Tiles are timed at the first call for a weight's shape.
    """
    rows, weight_rows = as_rows(x), as_rows(weight)
    count, depth = rows.shape
    width = weight_rows.shape[0]
    out = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    few = isinstance(count, int) and count <= FEW_ROWS  # a compiler's symbol counts as many rows

    def grid(meta: dict[str, Any]) -> tuple[int]:
        return (triton.cdiv(count, meta["BLOCK_M"]) * triton.cdiv(width, meta["BLOCK_N"]),)

    launchable(_TUNED["float" if x.dtype == torch.float32 else "half", few])[grid](
        rows,
        weight_rows,
        rows if bias is None else bias.contiguous(),
        out,
        count,
        rows.stride(0),
        weight_rows.stride(0),
        N=width,
        K=depth,
        HAS_BIAS=bias is not None,
        FORM=FORMS[approximate],
    )
    return out


def static_cases() -> list[StaticCase]:
    """Cases of every configuration at ViT-L's MLP; for many rows also in bf16 and at bigG's, whose width is no power of two."""
    cases = []
    for (size, few), configs in CONFIGS.items():
        dtype = "fp16" if size == "half" else "fp32"
        variants = [(1024, 4096, dtype, "none"), (1024, 4096, dtype, "quick")]
        if not few:
            variants.append((1664, 8192, dtype, "none"))
            variants += [(1024, 4096, "bf16", "none")] if size == "half" else []
        cases += [_case(*variant, config) for config in configs for variant in variants]
    return cases


def _case(depth: int, width: int, dtype: str, form: str, config: Any) -> StaticCase:
    pointers = dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), f"*{dtype}")
    constants = {"N": width, "K": depth, "HAS_BIAS": True, "FORM": FORMS[form], **config.kwargs}
    tile = "x".join(str(config.kwargs[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    return StaticCase(
        label=f"K={depth} C={width} {form} tile={tile} warps={config.num_warps} {dtype}",
        kernel=_linear_gelu_kernel,
        signature={**pointers, "M": "i32", "x_stride": "i32", "weight_stride": "i32"},
        constants=constants,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        divisible=(*pointers, "x_stride", "weight_stride"),
    )
