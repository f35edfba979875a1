# mypy: disallow-untyped-decorators=False
"""The Triton kernel of ``linear_gelu`` by tensor descriptors (TMA) and persistent programs, for Hopper and later.

As many programs as multiprocessors compute all tiles one after the other, so that a tile's epilogue overlaps the next tile's loads,
and the hardware computes addresses and bounds. It is the variant "tma" of ``linear_gelu``, and runs where the table of choices
names it.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch._subclasses.fake_tensor import FakeTensor

from kernels.descriptors import DESCRIPTORS_IN_PACKAGES, packages_hold_descriptors
from kernels.library import interpreted, launchable
from kernels.rows import as_rows
from kernels.static import StaticCase
from kernels.triton_activation import FORMS, gelu

GROUP_M = 8
# Number of bytes of which TMA needs addresses and strides to be multiples.
ALIGNMENT = 16


@triton.jit
def _linear_gelu_persistent_kernel(
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
) -> None:
    HALF_N: tl.constexpr = BLOCK_N // 2
    tiles_n: tl.constexpr = (N + BLOCK_N - 1) // BLOCK_N
    x = tl.make_tensor_descriptor(x_ptr, [M, K], [x_stride, 1], [BLOCK_M, BLOCK_K])
    weight = tl.make_tensor_descriptor(weight_ptr, [N, K], [weight_stride, 1], [BLOCK_N, BLOCK_K])
    out = tl.make_tensor_descriptor(out_ptr, [M, N], [N, 1], [BLOCK_M, HALF_N])
    tiles_m = tl.cdiv(M, BLOCK_M)
    for tile in tl.range(tl.program_id(0), tiles_m * tiles_n, tl.num_programs(0), flatten=True):
        group = tile // (GROUP_M * tiles_n)
        group_rows = tl.minimum(tiles_m - group * GROUP_M, GROUP_M)
        row = (group * GROUP_M + tile % (GROUP_M * tiles_n) % group_rows) * BLOCK_M
        column = (tile % (GROUP_M * tiles_n) // group_rows) * BLOCK_N
        total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
        for start in range(0, K, BLOCK_K):
            total = tl.dot(x.load([row, start]), weight.load([column, start]).T, total)
        # The tile is finished in halves, because the whole and erf's values at the same time would spill registers.
        first, second = total.reshape(BLOCK_M, 2, HALF_N).permute(0, 2, 1).split()
        if HAS_BIAS:
            columns = column + tl.arange(0, HALF_N)
            first += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
            columns += HALF_N
            second += tl.load(bias_ptr + columns, mask=columns < N, other=0.0).to(tl.float32)[None, :]
        out.store([row, column], gelu(first, FORM, out_ptr.dtype.element_ty != tl.float32).to(out_ptr.dtype.element_ty))
        out.store(
            [row, column + HALF_N],
            gelu(second, FORM, out_ptr.dtype.element_ty != tl.float32).to(out_ptr.dtype.element_ty),
        )


def _config(m: int, n: int, k: int, num_warps: int, num_stages: int) -> Any:
    block = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k, "GROUP_M": GROUP_M}
    return triton.Config(block, num_warps=num_warps, num_stages=num_stages)


CONFIGS = [_config(128, 256, 64, 8, 3), _config(128, 128, 64, 8, 3), _config(128, 128, 64, 8, 4)]
_tuned = triton.autotune(CONFIGS[1:2] if interpreted() else CONFIGS, key=["N", "K"])(_linear_gelu_persistent_kernel)


def check(rows: torch.Tensor, weight_rows: torch.Tensor) -> None:
    """Refuse tensors that tensor descriptors cannot read, and compilers that build wrong packages with descriptors.

    Args:
        rows: x as a matrix (M, K).
        weight_rows: the weight (C, K).

    Raises:
        ValueError: the dtype is float32, an address or stride is no multiple of 16 bytes, or the call is compiled into a package by
            a PyTorch that allocates the memory of one program's descriptors for all programs.
    """
    if rows.element_size() != 2:
        raise ValueError(f"variant 'tma' of linear_gelu is for half precision, x is {rows.dtype}: use 'triton'")
    # Sizes that a compiler keeps symbolic must not be compared; widths and strides of a tower's tensors are numbers.
    numbers = [
        n for x in (rows, weight_rows) for n in (x.stride(0), x.storage_offset(), x.shape[1], weight_rows.shape[0])
    ]
    if any(isinstance(number, int) and 2 * number % ALIGNMENT for number in numbers):
        raise ValueError(
            f"variant 'tma' of linear_gelu needs rows that begin at multiples of {ALIGNMENT} bytes, x is {tuple(rows.shape)} and "
            f"the weight {tuple(weight_rows.shape)}: use 'triton'"
        )
    if isinstance(rows, FakeTensor) and not packages_hold_descriptors():
        raise ValueError(
            f"variant 'tma' of linear_gelu cannot go into a compiled program of PyTorch {torch.__version__}: it needs "
            f"{'.'.join(map(str, DESCRIPTORS_IN_PACKAGES))} or newer; use 'triton'"
        )


def launch(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, approximate: str = "none") -> torch.Tensor:
    """Run `kernels.reference.linear_gelu` in half precision by this kernel; see `check` for the tensors that it takes."""
    rows, weight_rows = as_rows(x), as_rows(weight)
    check(rows, weight_rows)
    width, depth = weight_rows.shape
    out = torch.empty((*x.shape[:-1], width), dtype=x.dtype, device=x.device)
    # The interpreter runs few programs, so that each has several tiles.
    programs = torch.cuda.get_device_properties(x.device).multi_processor_count if x.is_cuda else 3
    # Descriptors are made on the device, in memory that Triton allocates by this function.
    triton.set_allocator(lambda size, _align, _stream: torch.empty(size, dtype=torch.int8, device=x.device))
    launchable(_tuned)[(programs,)](
        rows,
        weight_rows,
        rows if bias is None else bias.contiguous(),
        out,
        rows.shape[0],
        rows.stride(0),
        weight_rows.stride(0),
        N=width,
        K=depth,
        HAS_BIAS=bias is not None,
        FORM=FORMS[approximate],
    )
    return out


def static_cases() -> list[StaticCase]:
    """Cases of every configuration at the MLPs of ViT-L and bigG."""
    shapes = ((1024, 4096, "fp16", "none"), (1024, 4096, "bf16", "quick"), (1664, 8192, "fp16", "none"))
    return [_case(*shape, config) for config in CONFIGS for shape in shapes]


def _case(depth: int, width: int, dtype: str, form: str, config: Any) -> StaticCase:
    pointers = dict.fromkeys(("x_ptr", "weight_ptr", "bias_ptr", "out_ptr"), f"*{dtype}")
    tile = "x".join(str(config.kwargs[name]) for name in ("BLOCK_M", "BLOCK_N", "BLOCK_K"))
    return StaticCase(
        label=f"K={depth} C={width} {form} tile={tile} stages={config.num_stages} {dtype}",
        kernel=_linear_gelu_persistent_kernel,
        signature={**pointers, "M": "i32", "x_stride": "i32", "weight_stride": "i32"},
        constants={"N": width, "K": depth, "HAS_BIAS": True, "FORM": FORMS[form], **config.kwargs},
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        divisible=(*pointers, "x_stride", "weight_stride"),
        archs=(90, 100),
    )
