"""Arguments for the ops that work on rows and on pictures, and the check that each kernel's results are held to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from kernel_bound import as_double, assert_bounded

DTYPES = (torch.float16, torch.bfloat16, torch.float32)
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def randn(*shape: int, dtype: torch.dtype, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    """Normal values, the same for the same arguments."""
    generator = torch.Generator().manual_seed(seed + sum(shape))
    return (torch.randn(shape, generator=generator) * scale).to(dtype)


def spread(x: torch.Tensor) -> torch.Tensor:
    """The same values as a view that is not contiguous: every second column of a wider tensor."""
    wide = torch.zeros((*x.shape[:-1], 2 * x.shape[-1]), dtype=x.dtype)
    wide[..., ::2] = x
    return wide[..., ::2]


def padded(x: torch.Tensor) -> torch.Tensor:
    """The same values as the first columns of a wider tensor: rows are contiguous, the whole is not."""
    wide = torch.zeros((*x.shape[:-1], x.shape[-1] + 8), dtype=x.dtype)
    wide[..., : x.shape[-1]] = x
    return wide[..., : x.shape[-1]]


def pixels(*shape: int) -> torch.Tensor:
    """Random bytes (..., 3)."""
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(sum(shape)))


def check_all(op: Callable[..., Any], reference: Callable[..., Any], *args: Any, device: str = "cpu") -> None:
    """Hold every result of ``op(*args, impl="triton")`` to the bound (`kernel_bound`), in the interpreter if on the CPU."""
    if device == "cpu":
        from mended_interpreter import mend_interpreter

        mend_interpreter()
    there = [value.to(device) if isinstance(value, torch.Tensor) else value for value in args]
    got = op(*there, impl="triton")
    doubles = [torch.float64 if isinstance(value, torch.dtype) else as_double(value) for value in args]
    for ours, theirs, exact in zip(*map(_as_tuple, (got, reference(*args), reference(*doubles))), strict=True):
        assert ours.is_contiguous()
        assert_bounded(ours, theirs, exact)


def _as_tuple(result: Any) -> tuple[torch.Tensor, ...]:
    return result if isinstance(result, tuple) else (result,)
