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


def tiles_for(length: int | None, head_size: int, element_size: int, capability: int = 90) -> Tiles:
    """Tiles for sequences of `length` tokens, None where it is not known when the kernel is chosen."""
    head = split(head_size)
    if element_size == 4:
        return Tiles(False, 16, (32, 0), head, 4, 1)
    if length is not None and length <= 80:
        return Tiles(True, 64, split(length), head, 4, 1)
    if length is not None and length <= SINGLE_PASS:
        return Tiles(True, 32, split(length), head, 8, 1)
    return Tiles(False, 64, (64, 0), head, 4, 2)
