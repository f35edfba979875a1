# mypy: disallow-untyped-decorators=False
"""Triton kernel of ``normalize_image``: uint8 pictures to normalized patches in the order of conv1's weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.library import launchable
from kernels.static import StaticCase

# Elements a thread writes: 16 bytes in half precision.
PER_THREAD = 8


@triton.jit
def _normalize_image_kernel(
    pixels_ptr: tl.tensor,  # (N, H, W, 3) uint8 contiguous
    out_ptr: tl.tensor,  # (N, ROWS·COLUMNS, 3·PATCH·PATCH) contiguous
    red_scale: tl.tensor,
    green_scale: tl.tensor,
    blue_scale: tl.tensor,
    red_shift: tl.tensor,
    green_shift: tl.tensor,
    blue_shift: tl.tensor,
    H: tl.constexpr,
    W: tl.constexpr,
    PATCH: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    columns: tl.constexpr = W // PATCH
    patches: tl.constexpr = (H // PATCH) * columns
    area: tl.constexpr = PATCH * PATCH
    program = tl.program_id(0).to(tl.int64)
    patch = (program % patches).to(tl.int32)
    corner = ((patch // columns) * W + patch % columns) * PATCH
    place = tl.arange(0, BLOCK)
    mask = place < 3 * area
    channel = place // area
    inside = place % area
    offset = (corner + (inside // PATCH) * W + inside % PATCH) * 3 + channel
    # A byte lies beside those of its own pixel, so the three channels' reads share their cache lines.
    value = tl.load(pixels_ptr + (program // patches) * (H * W * 3) + offset, mask=mask, other=0).to(tl.float32)
    scale = tl.where(channel == 0, red_scale, tl.where(channel == 1, green_scale, blue_scale))
    shift = tl.where(channel == 0, red_shift, tl.where(channel == 1, green_shift, blue_shift))
    normalized = value * scale + shift
    tl.store(out_ptr + program * (3 * area) + place, normalized.to(out_ptr.dtype.element_ty), mask=mask)


def _tile(patch: int) -> tuple[int, int]:
    block = triton.next_power_of_2(3 * patch * patch)
    return block, max(1, min(8, block // (32 * PER_THREAD)))


def launch(
    pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], patch: int, dtype: torch.dtype
) -> torch.Tensor:
    """`kernels.reference.normalize_image` by the kernel."""
    pixels = pixels.contiguous()
    n, height, width, _ = pixels.shape
    patches = (height // patch) * (width // patch)
    block, num_warps = _tile(patch)
    out = torch.empty((n, patches, 3 * patch * patch), dtype=dtype, device=pixels.device)
    launchable(_normalize_image_kernel)[(n * patches,)](
        pixels,
        out,
        *(1.0 / (255.0 * spread) for spread in std),
        *(-center / spread for center, spread in zip(mean, std, strict=True)),
        H=height,
        W=width,
        PATCH=patch,
        BLOCK=block,
        num_warps=num_warps,
    )
    return out


def static_cases() -> list[StaticCase]:
    """The patches of ViT-B-32, B-16, L-14 and L-14-336."""
    cases = [(224, 32, "fp16"), (224, 16, "fp16"), (336, 14, "fp16")]
    return [_case(*case) for case in [*cases, *((224, 14, dtype) for dtype in ("fp16", "bf16", "fp32"))]]


def _case(size: int, patch: int, dtype: str) -> StaticCase:
    names = ("red_scale", "green_scale", "blue_scale", "red_shift", "green_shift", "blue_shift")
    block, num_warps = _tile(patch)
    return StaticCase(
        label=f"{size}x{size} patch={patch} {dtype}",
        kernel=_normalize_image_kernel,
        signature={"pixels_ptr": "*u8", "out_ptr": f"*{dtype}", **dict.fromkeys(names, "fp32")},
        constants={"H": size, "W": size, "PATCH": patch, "BLOCK": block},
        num_warps=num_warps,
        num_stages=3,
        divisible=("pixels_ptr", "out_ptr"),
    )
