"""Variants of attention on a GPU, by name. A row of ``choices.csv`` selects one, and a compiled package contains it.

    triton                 this project's kernel in the tiles of `kernels.attention_tiles`
    loop-128x64-w8-s3      the same kernel: 128 queries a program, 64 keys at a time, 8 warps, 3 stages of loads
    single-64-w8           the same kernel, all keys in one tile
    flash                  FlashAttention as PyTorch ships it
    cudnn                  cuDNN's attention, through PyTorch

The vendors' kernels read views of the packed projection, as this project's do. They take no mask of padding and no rotary tables.
"""

from __future__ import annotations

import re

from kernels.attention_tiles import SINGLE_PASS, Tiles, split, tiles_for

DEFAULT = "triton"
VENDORS = ("flash", "cudnn")
_LOOP = re.compile(r"loop-(\d+)x(\d+)-w(\d+)-s(\d+)")
_SINGLE = re.compile(r"single-(\d+)-w(\d+)")
# None of these spills registers at the shapes of towers: tests/kernels/test_attention_variants.py compiles them.
_LOOPS = ("loop-64x64-w4-s2", "loop-64x64-w4-s3", "loop-128x64-w8-s2", "loop-128x64-w8-s3", "loop-128x32-w4-s3")
_FEW_KEYS = 96


def check_variant(variant: str, masked: bool, rotated: bool) -> None:
    """Refuse a variant that does not exist, or that cannot mask or rotate.

    Args:
        variant: a variant's name.
        masked: whether keys are masked, because they are padding.
        rotated: whether q and k are rotated.

    Raises:
        ValueError: the name is none of this module's variants, or that kernel takes no mask and no rotation.
    """
    if variant in VENDORS:
        if masked or rotated:
            what = "mask of padding" if masked else "rotary tables"
            raise ValueError(f"variant {variant!r} of attention takes no {what}: use {DEFAULT!r}")
    elif variant != DEFAULT and not _LOOP.fullmatch(variant) and not _SINGLE.fullmatch(variant):
        raise ValueError(
            f"variant={variant!r} of attention is none of {DEFAULT}, {', '.join(VENDORS)}, loop-128x64-w8-s3 and single-64-w8 "
            "(queries, keys, warps, stages)"
        )


def tiles_of(
    variant: str, length: int | None, head_size: int, element_size: int, rotary: bool = False, capability: int = 90
) -> Tiles:
    """The tiles of a variant of this project's kernel; the arguments are those of `kernels.attention_tiles.tiles_for`.

    Raises:
        ValueError: the variant has all keys in one tile, but their number is not known or is above `SINGLE_PASS`.
    """
    if variant == DEFAULT:
        return tiles_for(length, head_size, element_size, rotary, capability)
    loop = _LOOP.fullmatch(variant)
    if loop:
        queries, keys, warps, stages = map(int, loop.groups())
        return Tiles(False, queries, (keys, 0), split(head_size), warps, stages)
    single = _SINGLE.fullmatch(variant)
    if single is None:
        raise ValueError(f"variant {variant!r} is no variant of this project's attention kernel")
    if length is None or length > SINGLE_PASS:
        known = "not known" if length is None else str(length)
        raise ValueError(
            f"variant {variant!r} holds all keys in one tile, and their number is {known}: it is for up to {SINGLE_PASS} keys"
        )
    queries, warps = map(int, single.groups())
    keys_in_tile = split(length)
    # The head takes the whole power of two where keys are split, because tiles that are split both ways spill registers.
    whole = (max(16, 1 << (head_size - 1).bit_length()), 0)
    return Tiles(True, queries, keys_in_tile, whole if keys_in_tile[1] else split(head_size), warps, 1)


def candidates(
    length: int | None, head_size: int, capability: int, masked: bool = False, rotated: bool = False
) -> tuple[str, ...]:
    """The variants that are worth timing, and among which `kernels.swap` may choose, `DEFAULT` first.

    Args:
        length: number of tokens in the longest sequence; None where it is known only when the model runs.
        head_size: D.
        capability: the GPU's compute capability: 80, 90, ….
        masked: whether keys are masked, because they are padding.
        rotated: whether q and k are rotated.
    """
    if masked or rotated:
        return (DEFAULT,)  # the other tiles leave no registers for the values of a rotation or a mask
    vendors = VENDORS if head_size % 8 == 0 else ()
    return (DEFAULT, *_LOOPS, *_singles(length, head_size, capability), *vendors)


def packed_candidates(longest: int, head_size: int, capability: int) -> tuple[str, ...]:
    """The variants of `candidates` for sequences that are laid end to end and have at most `longest` tokens each."""
    return tuple(name for name in candidates(longest, head_size, capability) if name != "cudnn")


def _singles(length: int | None, head_size: int, capability: int) -> tuple[str, ...]:
    if length is None or length > SINGLE_PASS:
        return ()
    if length <= _FEW_KEYS:
        return ("single-32-w8", "single-64-w4", "single-64-w8", "single-128-w8")
    if head_size > 64:
        return ("single-32-w8",)
    if 90 <= capability < 120:
        return ("single-32-w8", "single-64-w8", "single-128-w8")
    return ("single-32-w4", "single-32-w8")
