"""Quantized layers with the vendor's integer and float8 products, which AOTInductor compiles in place of Q/DQ pairs.

Rounding the input, the product (`torch._int_mm`, `torch._scaled_mm`) and the scales with the bias are three steps; the compiler
fuses the first with the operations before it and the last with those after it. cuBLAS needs more than 16 rows, and sides that are
multiples of 16: rows of zeros are appended, and dropped again.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from exporter.errors import ExportError
from exporter.quantization.layers import QuantizedConvolution, QuantizedLinear, QuantizedPatches
from exporter.quantization.operators import LARGEST
from exporter.towers.modules import TowerModule

_MULTIPLE = 16
_FEWEST_ROWS = 17


class ProductLinear(nn.Module):
    """A `QuantizedLinear` whose product is one operator: (…, in) to (…, out) in the input's dtype."""

    weight: torch.Tensor
    input_scale: torch.Tensor
    output_scale: torch.Tensor
    unit: torch.Tensor

    def __init__(self, layer: QuantizedLinear) -> None:
        super().__init__()
        self.dtype = layer.dtype
        rows, self.out_features = layer.weight.shape
        self.inner = -rows % _MULTIPLE
        weight = F.pad(layer.weight.view(torch.uint8), (0, -self.out_features % _MULTIPLE, 0, self.inner))
        weight = weight.view(layer.dtype)
        if self.dtype != torch.int8:
            weight = weight.T.contiguous().T  # float8 products take the second operand by columns
        self.register_buffer("weight", weight, persistent=False)
        scale = layer.weight_scale.float() * layer.input_scale.float()
        self.register_buffer("input_scale", layer.input_scale.float(), persistent=False)
        self.register_buffer("output_scale", scale, persistent=False)
        self.register_buffer("unit", torch.ones(()), persistent=False)
        self.bias = layer.bias

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Round, multiply, scale."""
        largest = LARGEST[self.dtype]
        y = x.to(torch.float32) / self.input_scale
        if self.dtype == torch.int8:
            y = y.round().clamp(-largest - 1.0, largest)
        else:
            y = y.clamp(-largest, largest)
        rows = F.pad(y.flatten(0, -2), (0, self.inner, 0, _FEWEST_ROWS)).to(self.dtype)
        if self.dtype == torch.int8:
            product = torch._int_mm(rows, self.weight).to(torch.float32)
        else:
            product = torch._scaled_mm(rows, self.weight, self.unit, self.unit, out_dtype=torch.float32)
        product = product[:-_FEWEST_ROWS, : self.out_features] * self.output_scale
        if self.bias is not None:
            product = product + self.bias.to(torch.float32)
        return product.to(x.dtype).reshape(*x.shape[:-1], self.out_features)


class ProductPatches(ProductLinear):
    """A `QuantizedPatches` whose product is one operator: (N, C, H, W) to (N, out, H / p, W / p)."""

    def __init__(self, layer: QuantizedPatches) -> None:
        super().__init__(layer)
        self.patch = layer.patch

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute the product over patches, and move channels first again."""
        return super().forward(QuantizedPatches.enter(self, x)).permute(0, 3, 1, 2)  # type: ignore[arg-type]


def use_products(tower: TowerModule) -> int:
    """Replace a tower's quantized layers by products; returns the number of replaced layers.

    Raises:
        ExportError: the tower has quantized convolutions, which have no such operator.
    """
    count = 0
    for parent in list(tower.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, QuantizedConvolution):
                raise ExportError(
                    "engine aotinductor has no quantized convolutions: pass --engine tensorrt or tensorrt-rtx, or --fp16"
                )
            if isinstance(layer, QuantizedLinear):
                kind = ProductPatches if isinstance(layer, QuantizedPatches) else ProductLinear
                setattr(parent, name, kind(layer))  # type: ignore[arg-type]
                count += 1
    return count
