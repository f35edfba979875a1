"""Tensors as matrices of rows, because row-wise kernels read them so."""

from __future__ import annotations

import torch

MAX_WIDTH = 16384


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """A view (M, C) of ``(..., C)`` whose last dimension is contiguous; a copy only where no such view exists."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def row_tile(width: int) -> tuple[int, int]:
    """The number of elements in a tile that holds a whole row, and its number of warps: 8 elements a thread, up to 16 warps.

    Raises:
        ValueError: a row is too wide to stay in registers.
    """
    width = int(width)  # where the width is dynamic, this fixes a compiler's symbol to one width
    if width > MAX_WIDTH:
        raise ValueError(f"rows of {width} exceed the kernel's {MAX_WIDTH} columns; use impl='native'")
    block = max(32, 1 << (width - 1).bit_length())
    return block, max(1, min(16, block // 256))
