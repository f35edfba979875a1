"""Which tiles an attention kernel works in: a pure function of length, head size and element size."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """`keys` and `head` are a power of two and what is added to it, 0 or a smaller power of two; `single`: all keys at once."""

    single: bool
    block_m: int
    keys: tuple[int, int]
    head: tuple[int, int]
    num_warps: int
    num_stages: int


def split(size: int) -> tuple[int, int]:
    """The two smallest powers of two, 16 at least, that cover `size` together; the second is 0 where one covers it as well."""
    whole = max(16, 1 << (size - 1).bit_length())
    part = whole // 2
    rest = max(16, 1 << max(0, size - part - 1).bit_length())
    return (part, rest) if part >= 16 and rest < part else (whole, 0)


# Up to here all keys are one tile; beyond, or where the length is only known at run time, they come in blocks.
SINGLE_PASS = 272


def tiles_for(
    length: int | None, head_size: int, element_size: int, rotary: bool = False, capability: int = 90
) -> Tiles:
    """Tiles that compile without spilling registers on sm_80, sm_90 and sm_100, and on sm_120 at the shapes of towers.

    Args:
        length: tokens of the longest sequence; None where that is not known when the kernel is chosen.
        head_size: D.
        element_size: 2 or 4 bytes. A float32 product runs on no tensor core and holds its operands in registers.
        rotary: q and k are rotated, for which the tables' values need registers too.
        capability: 80, 90, 100, …; from 90 on a product of 64 rows is one instruction of four warps, but not on consumer
            Blackwell, 120.
    """
    head = split(head_size)
    whole = (max(16, 1 << (head_size - 1).bit_length()), 0)
    if element_size == 4:
        # 64 + 16 with columns to mask, and 64 + 32, stay a few bytes short of registers.
        return Tiles(False, 32 if head_size <= 64 else 16, (32, 0), head if head_size == 80 else whole, 8, 1)
    if length is not None and length <= 96:
        return Tiles(True, 64 if length > 32 else 32, split(length), head, 4, 1)
    if length is not None and length <= SINGLE_PASS and not (rotary and head_size > 64):
        # 64 rotated queries need the last register that there is.
        if 90 <= capability < 120 and head_size <= 64 and not rotary:
            return Tiles(True, 64, split(length), head, 8, 1)
        # Split both ways, this many scores spill; so the head takes the whole power of two.
        return Tiles(True, 32, split(length), whole, 8, 1)
    if head_size <= 96:
        return Tiles(False, 64, (64, 0), head, 4, 1 if rotary else 2)
    return Tiles(False, 64, (32, 0), head, 4, 1 if rotary or capability >= 100 else 2)
