"""The launchers of the Triton kernel of ``attention`` and ``packed_attention``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import triton

from kernels.attention_tiles import Tiles
from kernels.attention_variants import DEFAULT, tiles_of
from kernels.library import launchable
from kernels.static import StaticCase
from kernels.triton_attention_kernel import attention_kernel

LOG2_E = 1.4426950408889634


def _constants(
    tiles: Tiles,
    heads: int,
    head_size: int,
    scale: float | None,
    causal: bool,
    padding: bool,
    rotary: bool,
    packed: bool,
) -> dict[str, Any]:
    return {
        "SCALE": (head_size**-0.5 if scale is None else scale) * LOG2_E,
        "H": heads,
        "D": head_size,
        "D0": tiles.head[0],
        "D1": tiles.head[1],
        "BLOCK_M": tiles.block_m,
        "N0": tiles.keys[0],
        "N1": tiles.keys[1],
        "SINGLE": tiles.single,
        "CAUSAL": causal,
        "PADDING": padding,
        "ROTARY": rotary,
        "PACKED": packed,
    }


def _launch(
    qkv: torch.Tensor,
    heads: int,
    length: int,
    starts: torch.Tensor | None,
    causal: bool,
    key_padding: torch.Tensor | None,
    cos: torch.Tensor | None,
    sin: torch.Tensor | None,
    scale: float | None,
    variant: str,
) -> torch.Tensor:
    if qkv.stride(-1) != 1 or _too_far_apart(qkv):
        qkv = qkv.contiguous()
    width = qkv.shape[-1] // 3
    head_size = width // heads
    out = qkv.new_empty((*qkv.shape[:-1], width))
    sequences = qkv.shape[0] if starts is None else starts.shape[0] - 1
    # A length that a compiler keeps symbolic must not be compared, because that would fix it.
    known = length if isinstance(length, int) else None
    tiles = tiles_of(variant, known, head_size, qkv.element_size(), cos is not None, _capability(qkv))
    has_keys = key_padding is not None
    launchable(attention_kernel)[(triton.cdiv(length, tiles.block_m) * sequences * heads,)](
        qkv,
        qkv if key_padding is None else key_padding,
        qkv if cos is None else cos.contiguous(),
        qkv if sin is None else sin.contiguous(),
        qkv if starts is None else starts.contiguous(),
        out,
        length,
        qkv.stride(0),
        qkv.stride(-2),
        0 if key_padding is None else key_padding.stride(0),
        0 if key_padding is None else key_padding.stride(1),
        **_constants(tiles, heads, head_size, scale, causal, has_keys, cos is not None, starts is not None),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
    )
    return out


def _too_far_apart(qkv: torch.Tensor) -> bool:
    """Whether a sequence's last row is beyond a 32-bit offset from its first row, as in a view whose first dimension is tokens."""
    rows, stride = qkv.shape[-2], qkv.stride(-2)
    # Sizes that a compiler keeps symbolic must not be compared; a compiler lays its tensors out without gaps.
    return qkv.ndim == 3 and isinstance(rows, int) and isinstance(stride, int) and (rows - 1) * stride >= 1 << 31


def _capability(tensor: torch.Tensor) -> int:
    if not tensor.is_cuda:
        return 90  # the interpreter
    major, minor = torch.cuda.get_device_capability(tensor.device)
    return 10 * major + minor


def attention(
    qkv: torch.Tensor,
    heads: int,
    causal: bool,
    key_padding: torch.Tensor | None,
    rotary_cos: torch.Tensor | None,
    rotary_sin: torch.Tensor | None,
    scale: float | None,
    variant: str = DEFAULT,
) -> torch.Tensor:
    """Launch the kernel of `kernels.attention.attention` in the tiles of `variant`."""
    return _launch(qkv, heads, qkv.shape[1], None, causal, key_padding, rotary_cos, rotary_sin, scale, variant)


def packed_attention(
    qkv: torch.Tensor,
    heads: int,
    cu_seqlens: torch.Tensor,
    max_seqlen: int,
    causal: bool,
    scale: float | None,
    variant: str = DEFAULT,
) -> torch.Tensor:
    """Launch the kernel of `kernels.attention.packed_attention` in the tiles of `variant`."""
    return _launch(qkv, heads, max_seqlen, cu_seqlens, causal, None, None, None, scale, variant)


_POINTERS = {"fp16": "*fp16", "bf16": "*bf16", "fp32": "*fp32"}

# Shapes in towers: (longest L or None, D, mode). Image towers of B-32, B-16, L-14, H-14, g-14, bigG-14 and their larger
# pictures; text towers; EVA02's rotation; packed captions.
_SHAPES = (
    (50, 64, "plain"),
    (197, 64, "plain"),
    (257, 64, "plain"),
    (577, 64, "plain"),
    (257, 80, "plain"),
    (257, 88, "plain"),
    (257, 104, "plain"),
    (257, 112, "plain"),
    (577, 80, "plain"),
    (577, 88, "plain"),
    (577, 112, "plain"),
    (77, 64, "causal"),
    (77, 80, "causal"),
    (None, 64, "causal"),
    (None, 80, "causal"),
    (None, 112, "causal-padding"),
    (77, 64, "causal-padding"),
    (64, 64, "padding"),
    (512, 64, "padding"),
    (197, 64, "rotary"),
    (257, 64, "rotary"),
    (577, 64, "rotary"),
    (257, 88, "rotary"),
    (577, 112, "rotary"),
    (77, 64, "packed"),
    (77, 80, "packed"),
    (None, 64, "packed"),
)


def static_case(
    length: int | None, head_size: int, mode: str, dtype: str, capability: int, variant: str = DEFAULT
) -> StaticCase:
    """The specialization that a launch with these arguments would compile."""
    pointer = _POINTERS[dtype]
    padding, rotary, packed = "padding" in mode, mode == "rotary", mode == "packed"
    tiles = tiles_of(variant, length, head_size, 4 if dtype == "fp32" else 2, rotary, capability)
    signature = {
        "qkv_ptr": pointer,
        "padding_ptr": "*i1" if padding else pointer,
        "cos_ptr": "*fp32" if rotary else pointer,
        "sin_ptr": "*fp32" if rotary else pointer,
        "starts_ptr": "*i32" if packed else pointer,
        "out_ptr": pointer,
        "length": "i32",
        "batch_stride": "i32",
        "row_stride": "i32",
        "padding_batch_stride": "i32",
        "padding_stride": "i32",
    }
    return StaticCase(
        label=f"L={length or 'any'} D={head_size} {mode} {dtype}" + ("" if variant == DEFAULT else f" {variant}"),
        kernel=attention_kernel,
        signature=signature,
        constants=_constants(tiles, 16, head_size, None, "causal" in mode or packed, padding, rotary, packed),
        num_warps=tiles.num_warps,
        num_stages=tiles.num_stages,
        divisible=(*(name for name in signature if name.endswith("_ptr")), "batch_stride", "row_stride"),
        archs=(80, 90, 100, 120),
    )


def static_cases() -> list[StaticCase]:
    """Cases for the shapes in towers: all in float16, some in the other dtypes."""
    cases: list[tuple[int | None, int, str, str]] = [(*shape, "fp16") for shape in _SHAPES]
    cases += [(257, 64, "plain", "bf16"), (577, 80, "plain", "bf16"), (77, 64, "causal", "bf16")]
    cases += [(length, size, mode, "fp32") for length, size, mode in _SHAPES if length in (77, 257, 577)]
    return [
        replace(static_case(*case, 90), by_arch={arch: static_case(*case, arch) for arch in (80, 100, 120)})
        for case in cases
    ]
