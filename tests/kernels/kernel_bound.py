"""How wrong a kernel may be: twice as wrong as the reference in the same dtype, both against float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


def as_double(value: Any) -> Any:
    """A floating point tensor in float64; anything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def assert_bounded(got: torch.Tensor, reference: torch.Tensor, exact: torch.Tensor) -> None:
    """Every element within twice the reference's largest error, and one unit in the last place, of `exact`."""
    assert got.shape == exact.shape, f"shape {tuple(got.shape)}, expected {tuple(exact.shape)}"
    assert got.dtype == reference.dtype, f"dtype {got.dtype}, expected {reference.dtype}"
    got, exact = got.cpu().double(), exact.cpu()
    assert torch.equal(got.isfinite(), exact.isfinite()), "values are finite elsewhere than in float64"
    finite = exact.isfinite()
    info = torch.finfo(reference.dtype)
    allowed = 2 * (reference.cpu().double() - exact)[finite].abs().max().item() if finite.any() else 0.0
    slack = (exact.abs() * info.eps).clamp_min(info.tiny * info.eps)
    over = ((got - exact).abs() - allowed - slack)[finite]
    assert not over.numel() or over.max() <= 0, (
        f"{reference.dtype}: error {(got - exact)[finite].abs().max():.3e}, allowed {allowed:.3e} and one ulp"
    )


def check(op: Callable[..., Any], reference: Callable[..., Any], *args: Any, device: str = "cpu") -> torch.Tensor:
    """Run ``op(*args, impl="triton")`` on `device` and hold it to the bound; return what it gave, on the CPU."""
    there = [value.to(device) if isinstance(value, torch.Tensor) else value for value in args]
    got = op(*there, impl="triton")
    assert_bounded(got, reference(*args), reference(*map(as_double, args)))
    return got.cpu()
