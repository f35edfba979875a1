"""The tile sizes of the attention kernel, as a pure function of length, head size, element size and GPU."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tiles:
    """Sizes of a program's tiles, and its warps and stages.

    Attributes:
        single: whether all keys are one tile; otherwise a loop goes over blocks of keys.
        block_m: number of queries.
        keys, head: sizes along the keys and along the head: a power of two, and 0 or a smaller power of two that is added to it.
        num_warps, num_stages: the launch's number of warps and of stages of loads.
    """

    single: bool
    block_m: int
    keys: tuple[int, int]
    head: tuple[int, int]
    num_warps: int
    num_stages: int


def split(size: int) -> tuple[int, int]:
    """The two smallest powers of two, 16 at least, that cover `size` together; the second is 0 where one alone is as small."""
    whole = max(16, 1 << (size - 1).bit_length())
    part = whole // 2
    rest = max(16, 1 << max(0, size - part - 1).bit_length())
    return (part, rest) if part >= 16 and rest < part else (whole, 0)


# Largest number of keys in one tile; more keys, or an unknown number before run time, are processed in blocks.
SINGLE_PASS = 272


def tiles_for(
    length: int | None, head_size: int, element_size: int, rotary: bool = False, capability: int = 90
) -> Tiles:
    """Tiles that compile without spilling registers on sm_80, sm_90 and sm_100, and on sm_120 at the shapes of towers.

    Args:
        length: number of tokens in the longest sequence; None where that is not known when the kernel is chosen.
        head_size: D.
        element_size: 2 or 4 bytes. A float32 product runs on no tensor core and holds its operands in registers.
        rotary: whether q and k are rotated, because the tables' values need registers, too.
        capability: compute capability, 80, 90, 100, …; from 90 on a product of 64 rows is one instruction of four warps, but not
            on consumer Blackwell, 120.
    """
    head = split(head_size)
    whole = (max(16, 1 << (head_size - 1).bit_length()), 0)
    if element_size == 4:
        # Heads of 64 + 16 with columns to mask, and of 64 + 32, would need a few bytes more than the registers hold.
        return Tiles(False, 32 if head_size <= 64 else 16, (32, 0), head if head_size == 80 else whole, 8, 1)
    if length is not None and length <= 96:
        return Tiles(True, 64 if length > 32 else 32, split(length), head, 4, 1)
    if length is not None and length <= SINGLE_PASS and not (rotary and head_size > 64):
        # 64 rotated queries would need every register of the program.
        if 90 <= capability < 120 and head_size <= 64 and not rotary:
            return Tiles(True, 64, split(length), head, 8, 1)
        # The head takes the whole power of two, because this many scores spill where keys and head are both split.
        return Tiles(True, 32, split(length), whole, 8, 1)
    if head_size <= 96:
        return Tiles(False, 64, (64, 0), head, 4, 1 if rotary else 2)
    return Tiles(False, 64, (32, 0), head, 4, 1 if rotary else 2)
