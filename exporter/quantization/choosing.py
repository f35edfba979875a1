"""The choice of each layer's input range: the candidate with the smallest error of the layer's output on kept inputs."""

from __future__ import annotations

import torch
from torch import nn

from exporter.quantization.layers import half_scale, is_patches, round_weight
from exporter.quantization.operators import rounded
from exporter.quantization.statistics import EXTREME_ROWS, KEPT_ROWS, Record


def choose_limit(layer: nn.Module, record: Record, dtype: torch.dtype) -> tuple[str, float]:
    """Choose the best limit; returns its name and value.

    Args:
        layer: a Linear or Conv2d in float32.
        record: the record of its inputs.
        dtype: int8 or float8_e4m3fn.

    Raises:
        ValueError: the inputs were all zero or not finite, so that they have no range.
    """
    assert record.histogram is not None
    candidates = record.histogram.candidates(dtype)
    if not candidates:
        raise ValueError("all its inputs are zero")
    if not record.histogram.largest < float("inf"):
        raise ValueError("its inputs are not finite")
    errors = _output_errors(layer, record, dtype, candidates)
    best = min(errors, key=lambda name: errors[name])
    return best, candidates[best]


def _output_errors(
    layer: nn.Module, record: Record, dtype: torch.dtype, candidates: dict[str, float]
) -> dict[str, float]:
    """Measure the relative squared error of the layer's output by candidate, on even rows and, as a share of its own, extreme rows.

    Rows with extreme values are rare, and an average over all rows would neglect them, although some networks depend on them.
    """
    weight, exact = _weights(layer, dtype)
    parts = ((record.even_rows, KEPT_ROWS), (record.extreme_rows, EXTREME_ROWS))
    outputs = [rows @ exact for rows, _ in parts]
    by_name = {}
    for name, limit in candidates.items():
        scale = half_scale(torch.tensor(limit), dtype)
        error = 0.0
        for (rows, share), output in zip(parts, outputs, strict=True):
            again = rounded(rows, scale, dtype) @ weight
            relative = (again - output).square().sum(dim=1) / output.square().sum(dim=1).clamp_min(1e-20)
            error += share * float(relative.mean())
        by_name[name] = error
    return by_name


def _weights(layer: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rounded and exact weight as (K, M); for a convolution with inputs kept as pixels, its norm by input channel."""
    assert isinstance(layer, (nn.Linear, nn.Conv2d))
    weight = layer.weight.detach().to(torch.float32)
    if isinstance(layer, nn.Conv2d) and not is_patches(layer):
        energy = weight.square().sum(dim=(0, 2, 3)).sqrt().diag()
        return energy, energy
    rounded, scale = round_weight(weight, dtype)
    return (rounded.to(torch.float32).flatten(1) * scale[:, None]).T, weight.flatten(1).T
