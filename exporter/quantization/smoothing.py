"""SmoothQuant (Xiao et al., arXiv:2211.10438): outlier channels of a layer's input are moved into its weight, without cost.

For a layer's input ``x`` and weight ``W``, the product equals ``(x / s) (s W)``. If the module that makes ``x`` ends in a factor
for each channel, ``1 / s`` is folded into that factor, and no work is added at run time:

| ``x`` comes from | the factor is | layers |
| --- | --- | --- |
| a LayerNorm | its weight and bias | QKV, fc1, keys and values of CoCa's pooling |
| attention | the rows of the value projection, because attention averages values channel by channel | the output projection |
| a gated MLP without an inner norm | the rows of the ungated branch | fc2 |

The output of GELU has no such factor, and neither has a norm whose output is also the residual stream (RoBERTa, EVA02-E's
post-norms): those layers are not smoothed. The strength, from moving nothing of an outlier to moving all of it, is searched for
each fold on measured inputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from exporter.quantization.layers import half_scale, round_weight
from exporter.quantization.operators import rounded
from exporter.towers.blocks import FirstTokenAttention, SelfAttention
from exporter.towers.clip_transformer import AttentionHead
from exporter.towers.modules import TowerModule
from exporter.towers.units import Residual

STRENGTHS = (0.0, 0.25, 0.4, 0.5, 0.6, 0.75, 0.9)
_LARGEST_FACTOR = 1e3  # its inverse is the smallest factor, so that folded weights stay far from float16's limits


@dataclass(frozen=True)
class Rows:
    """Output rows of a linear layer, from `start` to `stop`, such as the value part of a packed projection."""

    layer: nn.Linear
    start: int
    stop: int


@dataclass(frozen=True)
class Fold:
    """A place where smoothing can be folded.

    Attributes:
        producer: a LayerNorm, or rows of a linear layer, which has a factor for each channel.
        consumers: the linear layers that read the producer's output; no other module reads it.
    """

    producer: nn.LayerNorm | Rows
    consumers: tuple[nn.Linear, ...]


def find_folds(tower: TowerModule) -> list[Fold]:
    """Find every fold of a float32 tower, in the order of the data."""
    folds: list[Fold] = []
    for module in tower.encoder.modules():
        folds += _folds(module)
    return folds


def _folds(module: nn.Module) -> Iterator[Fold]:
    if isinstance(module, Residual) and _scales(module.norm):
        readers = _readers(module.body)
        if readers:
            yield Fold(module.norm, readers)  # type: ignore[arg-type]
    if isinstance(module, AttentionHead) and _scales(module.norm):
        yield Fold(module.norm, (module.pool.kv,))
    if isinstance(module, (SelfAttention, FirstTokenAttention)):
        if _scales(module.inner_norm):
            yield Fold(module.inner_norm, (module.out,))  # type: ignore[arg-type]
        elif module.inner_norm is None:
            packed = module.qkv if isinstance(module, SelfAttention) else module.kv
            width = module.heads * module.head_dim
            yield Fold(Rows(packed, packed.out_features - width, packed.out_features), (module.out,))
    if _is_gated(module):
        gated: Any = module
        if _scales(gated.norm):
            yield Fold(gated.norm, (gated.fc2,))
        elif isinstance(gated.norm, nn.Identity):
            yield Fold(Rows(gated.fc1_x, 0, gated.fc1_x.out_features), (gated.fc2,))
    if type(module).__name__ == "ConvNeXtBlock":
        block: Any = module
        if _scales(block.norm) and isinstance(getattr(block.mlp, "fc1", None), nn.Linear):
            yield Fold(block.norm, (block.mlp.fc1,))


def _scales(norm: nn.Module | None) -> bool:
    """Whether a norm ends in a weight for each channel of the last dimension."""
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.weight.ndim == 1


def _is_gated(module: nn.Module) -> bool:
    """Whether a module is timm's SwiGLU: ``fc2(norm(act(fc1_g(x)) * fc1_x(x)))``."""
    parts = ("fc1_g", "fc1_x", "fc2", "norm")
    return type(module).__name__ == "SwiGLU" and all(isinstance(getattr(module, p, None), nn.Module) for p in parts)


def _readers(body: nn.Module) -> tuple[nn.Linear, ...]:
    """The linear layers of a residual branch that read the norm's output."""
    if isinstance(body, SelfAttention):
        return (body.qkv,)
    if isinstance(body, FirstTokenAttention):
        return (body.q, body.kv)
    if _is_gated(body):
        return (body.fc1_g, body.fc1_x)  # type: ignore[return-value]
    for name in ("c_fc", "fc1"):
        first = getattr(body, name, None)
        if isinstance(first, nn.Linear):
            return (first,)
    return ()


def choose_strength(
    largest: torch.Tensor, rows: torch.Tensor, consumers: tuple[nn.Linear, ...], dtype: torch.dtype
) -> tuple[float, torch.Tensor]:
    """Choose the strength with the smallest error of the layers' outputs, and compute its factors ``s``.

    Args:
        largest: the largest magnitude of each channel over all calibration data, (K,).
        rows: inputs of the layers, (R, K).
        consumers: the layers.
        dtype: the dtype of their quantization.

    Returns:
        A strength from `STRENGTHS` and factors (K,) float32, all ones for 0.
    """
    weight = torch.cat([layer.weight for layer in consumers]).to(torch.float32)
    heaviest = weight.abs().amax(dim=0)
    exact = rows @ weight.T
    best: tuple[float, float, torch.Tensor] | None = None
    for strength in STRENGTHS:
        factors = smoothing_factors(largest, heaviest, strength)
        scale = half_scale((largest / factors).max(), dtype)
        smooth = rounded(rows / factors, scale, dtype)
        quantized, scales = round_weight(weight * factors, dtype)
        error = float((smooth @ (quantized.to(torch.float32) * scales[:, None]).T - exact).square().mean())
        if best is None or error < best[0]:
            best = (error, strength, factors)
    assert best is not None
    return best[1], best[2]


def smoothing_factors(largest: torch.Tensor, heaviest: torch.Tensor, strength: float) -> torch.Tensor:
    """Compute ``largest^a / heaviest^(1 - a)`` channel by channel, scaled to a geometric mean of one; ones for strength 0."""
    if strength == 0.0:
        return torch.ones_like(largest)
    floor = 1e-5
    log = strength * largest.clamp_min(floor).log() - (1.0 - strength) * heaviest.clamp_min(floor).log()
    return (log - log.mean()).exp().clamp(1.0 / _LARGEST_FACTOR, _LARGEST_FACTOR)


def fold(where: Fold, factors: torch.Tensor) -> None:
    """Divide the producer's output by `factors` (K,) and multiply the consumers' weights by them, in place; this is exact."""
    if isinstance(where.producer, Rows):
        rows = where.producer
        part = slice(rows.start, rows.stop)
        rows.layer.weight.data[part] /= factors[:, None]
        if rows.layer.bias is not None:
            rows.layer.bias.data[part] /= factors
    else:
        norm = where.producer
        norm.weight.data /= factors
        if norm.bias is not None:
            norm.bias.data /= factors
    for layer in where.consumers:
        layer.weight.data *= factors
