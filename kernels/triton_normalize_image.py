# mypy: disallow-untyped-decorators=False
"""The Triton kernel of ``normalize_image``: uint8 pictures to normalized patches in the order of conv1's weight."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from kernels.library import launchable
from kernels.static import StaticCase

# Number of elements that a thread writes: 16 bytes in half precision.
PER_THREAD = 8


@triton.jit
def _normalize_image_kernel(
    pixels_ptr: tl.tensor,  # (N, H, W, 3) uint8 contiguous
    out_ptr: tl.tensor,  # (N, ROWS·COLUMNS, 3·PATCH·PATCH) contiguous
    # Constants, because compilers may pass a Python float as float64.
    RED_SCALE: tl.constexpr,
    GREEN_SCALE: tl.constexpr,
    BLUE_SCALE: tl.constexpr,
    RED_SHIFT: tl.constexpr,
    GREEN_SHIFT: tl.constexpr,
    BLUE_SHIFT: tl.constexpr,
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
    # The three channels of a pixel lie side by side, so their reads share cache lines.
    value = tl.load(pixels_ptr + (program // patches) * (H * W * 3) + offset, mask=mask, other=0).to(tl.float32)
    scale = tl.where(channel == 0, RED_SCALE, tl.where(channel == 1, GREEN_SCALE, BLUE_SCALE))
    shift = tl.where(channel == 0, RED_SHIFT, tl.where(channel == 1, GREEN_SHIFT, BLUE_SHIFT))
    normalized = value * scale + shift
    tl.store(out_ptr + program * (3 * area) + place, normalized.to(out_ptr.dtype.element_ty), mask=mask)


def _tile(patch: int) -> tuple[int, int]:
    block = triton.next_power_of_2(3 * patch * patch)
    return block, max(1, min(8, block // (32 * PER_THREAD)))


def _channels(mean: Sequence[float], std: Sequence[float]) -> dict[str, float]:
    """The constants of normalization as ``pixel · scale + shift`` for each channel."""
    constants: dict[str, float] = {}
    for name, center, spread in zip(("RED", "GREEN", "BLUE"), mean, std, strict=True):
        constants |= {f"{name}_SCALE": 1.0 / (255.0 * spread), f"{name}_SHIFT": -center / spread}
    return constants


def launch(
    pixels: torch.Tensor, mean: Sequence[float], std: Sequence[float], patch: int, dtype: torch.dtype
) -> torch.Tensor:
    """Run `kernels.reference.normalize_image` by the kernel."""
    pixels = pixels.contiguous()
    n, height, width, _ = pixels.shape
    patches = (height // patch) * (width // patch)
    block, num_warps = _tile(patch)
    out = torch.empty((n, patches, 3 * patch * patch), dtype=dtype, device=pixels.device)
    launchable(_normalize_image_kernel)[(n * patches,)](
        pixels,
        out,
        **_channels(mean, std),
        H=height,
        W=width,
        PATCH=patch,
        BLOCK=block,
        num_warps=num_warps,
    )
    return out


def static_cases() -> list[StaticCase]:
    """Cases for the patches of ViT-B-32, B-16, L-14 and L-14-336."""
    cases = [(224, 32, "fp16"), (224, 16, "fp16"), (336, 14, "fp16")]
    return [_case(*case) for case in [*cases, *((224, 14, dtype) for dtype in ("fp16", "bf16", "fp32"))]]


def _case(size: int, patch: int, dtype: str) -> StaticCase:
    block, num_warps = _tile(patch)
    return StaticCase(
        label=f"{size}x{size} patch={patch} {dtype}",
        kernel=_normalize_image_kernel,
        signature={"pixels_ptr": "*u8", "out_ptr": f"*{dtype}"},
        constants={
            **_channels((0.48, 0.46, 0.41), (0.27, 0.26, 0.28)),
            "H": size,
            "W": size,
            "PATCH": patch,
            "BLOCK": block,
        },
        num_warps=num_warps,
        num_stages=3,
        divisible=("pixels_ptr", "out_ptr"),
    )
