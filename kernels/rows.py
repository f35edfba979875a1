"""Tensors as matrices of rows, which is how row-wise kernels read them."""

from __future__ import annotations

import torch

MAX_WIDTH = 16384


def as_rows(x: torch.Tensor) -> torch.Tensor:
    """View ``(..., C)`` as ``(M, C)`` whose last dimension is contiguous; copy only where no such view exists."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def row_tile(width: int) -> tuple[int, int]:
    """Elements of a tile that holds a whole row, and warps for it: 8 elements a thread, up to 16 warps.

    Raises ValueError for a row that would not stay in registers.
    """
    width = int(width)  # a compiler's symbol, if the width is dynamic, becomes this one width
    if width > MAX_WIDTH:
        raise ValueError(f"rows of {width} exceed the kernel's {MAX_WIDTH} columns; use impl='native'")
    block = max(32, 1 << (width - 1).bit_length())
    return block, max(1, min(16, block // 256))
