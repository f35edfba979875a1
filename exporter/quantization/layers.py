"""Quantized layers: they replace a tower's linear layers and convolutions, and trace to Q/DQ pairs around one product.

| layer | product | scales |
| --- | --- | --- |
| `QuantizedLinear` | MatMul | one for the input, one for each output channel of the weight |
| `QuantizedPatches` | MatMul over the pixels of non-overlapping patches | the same |
| `QuantizedConvolution` | Conv | the same |

Scales are exact in float16, so the float32 graph for CPUs and the float16 graph for GPUs hold the same numbers, and a measurement
of one holds for the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from exporter.quantization.operators import LARGEST, dequantize, quantize

_SMALLEST = 2.0**-14  # float16's smallest normal number


def half_scale(limit: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Compute the scale (float32, exact in float16, positive) with which magnitudes up to `limit` fit into `dtype`."""
    scale = (limit.to(torch.float32) / LARGEST[dtype]).clamp(_SMALLEST, 6e4)
    return scale.to(torch.float16).to(torch.float32)


def round_weight(weight: torch.Tensor, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Round a weight (out, …) channel by channel.

    Returns:
        The rounded weight in `dtype` and of the same shape, and scales (out,) float32.
    """
    rows = weight.detach().to(torch.float32).flatten(1)
    scale = half_scale(rows.abs().amax(dim=1), dtype)
    shaped = rows / scale[:, None]
    largest = LARGEST[dtype]
    shaped = shaped.round_() if dtype == torch.int8 else shaped
    return shaped.clamp_(-largest, largest).to(dtype).reshape(weight.shape), scale


class QuantizedLayer(nn.Module):
    """The base class of layers with rounded weight and input.

    Attributes:
        original: the layer that it replaces; None after `settle`.
        exact: whether to compute with `original`, without quantization.
        limit: the largest represented magnitude of inputs; larger ones are clipped to it.
    """

    weight: torch.Tensor
    weight_scale: torch.Tensor
    input_scale: torch.Tensor
    zero_point: torch.Tensor

    def __init__(self, original: Any, dtype: torch.dtype, limit: float) -> None:
        """Args: `original`, a Linear or Conv2d; `dtype`, int8 or float8_e4m3fn; `limit`, the input's limit, positive."""
        super().__init__()
        self.original: Any = original
        self.exact = False
        self.dtype, self.limit = dtype, limit
        bias = original.bias
        self.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        weight, scale = round_weight(original.weight, dtype)
        self.register_buffer("weight", self.arrange(weight), persistent=False)
        self.register_buffer("weight_scale", scale, persistent=False)
        self.register_buffer("input_scale", half_scale(torch.tensor(limit), dtype), persistent=False)
        self.register_buffer("zero_point", torch.zeros((), dtype=dtype), persistent=False)

    def arrange(self, weight: torch.Tensor) -> torch.Tensor:
        """Arrange the weight for the product."""
        return weight

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Compute the layer's product with dequantized operands."""
        raise NotImplementedError

    @property
    def weight_axis(self) -> int:
        """The axis of the arranged weight that its scales belong to."""
        return 0

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Arrange the layer's input for the product."""
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute with rounded operands, or exactly while `exact` is set."""
        if self.exact:
            y: torch.Tensor = self.original(x)
            return y
        x = self.enter(x)
        x = dequantize(quantize(x, self.input_scale, self.zero_point), self.input_scale, 0)
        return self.product(x, dequantize(self.weight, self.weight_scale, self.weight_axis))

    def settle(self) -> None:
        """Release the original layer; from here on this layer can be converted and traced."""
        self.original = None

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> QuantizedLayer:
        # Only scales and bias are converted: float8 counts as a floating-point dtype, and would be converted, too.
        integers = {name: getattr(self, name) for name in ("weight", "zero_point")}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in integers.items():
            after = getattr(self, name)
            if after.dtype != self.dtype:
                setattr(self, name, before.to(after.device))
        return self


class QuantizedLinear(QuantizedLayer):
    """A linear layer, (…, in) to (…, out); the weight is stored as (in, out)."""

    def arrange(self, weight: torch.Tensor) -> torch.Tensor:
        """Transpose (out, in) to (in, out), so that the graph has no Transpose."""
        return weight.T.contiguous()

    @property
    def weight_axis(self) -> int:
        """The last axis, which has the output channels."""
        return 1

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Multiply, and add the bias."""
        y = torch.matmul(x, weight)
        return y if self.bias is None else y + self.bias


class QuantizedPatches(QuantizedLinear):
    """A convolution whose kernels do not overlap, as a product over patches: (N, C, H, W) to (N, out, H / p, W / p).

    ONNX Runtime has int8 kernels for convolutions only if their outputs are quantized, too; for products it has them in any case.
    """

    def __init__(self, original: nn.Conv2d, dtype: torch.dtype, limit: float) -> None:
        """Args: as the base; `original` must satisfy `is_patches`."""
        self.patch: tuple[int, int] = (original.kernel_size[0], original.kernel_size[1])
        super().__init__(original, dtype, limit)

    def arrange(self, weight: torch.Tensor) -> torch.Tensor:
        """Arrange (out, C, p, p) as (C · p · p, out)."""
        return weight.flatten(1).T.contiguous()

    def enter(self, x: torch.Tensor) -> torch.Tensor:
        """Arrange (N, C, H, W) as (N, H / p, W / p, C · p · p)."""
        high, wide = self.patch
        rows, columns = x.shape[2] // high, x.shape[3] // wide
        x = x[:, :, : rows * high, : columns * wide]
        x = x.reshape(x.shape[0], x.shape[1], rows, high, columns, wide)
        return x.permute(0, 2, 4, 1, 3, 5).flatten(3)

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Multiply, add the bias, and move channels first again."""
        return super().product(x, weight).permute(0, 3, 1, 2)


class QuantizedConvolution(QuantizedLayer):
    """A dense convolution of any other kind: (N, C, H, W) to (N, out, H', W')."""

    def __init__(self, original: nn.Conv2d, dtype: torch.dtype, limit: float) -> None:
        """Args: as the base."""
        super().__init__(original, dtype, limit)
        self.stride, self.padding, self.dilation = original.stride, original.padding, original.dilation

    def product(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """Convolve, and add the bias."""
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation)


def is_patches(convolution: nn.Conv2d) -> bool:
    """Whether the kernels of a convolution tile its input without overlap, gaps or padding."""
    return (
        convolution.kernel_size == convolution.stride
        and convolution.kernel_size != (1, 1)
        and convolution.groups == 1
        and convolution.padding in ((0, 0), "valid")
        and convolution.dilation == (1, 1)
    )


def quantized(layer: nn.Module, dtype: torch.dtype, limit: float) -> QuantizedLayer:
    """Make the quantized layer for `layer`."""
    if isinstance(layer, nn.Linear):
        return QuantizedLinear(layer, dtype, limit)
    assert isinstance(layer, nn.Conv2d)
    return (QuantizedPatches if is_patches(layer) else QuantizedConvolution)(layer, dtype, limit)


def operand(layer: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Arrange a layer's input (…) as rows (R, K) of its product; for a convolution that is not over patches, as pixels (R, C)."""
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1])
    assert isinstance(layer, nn.Conv2d)
    if is_patches(layer):
        rows = F.unfold(x, layer.kernel_size, stride=layer.stride)  # (N, K, P)
        return rows.transpose(1, 2).reshape(-1, rows.shape[1])
    return x.movedim(1, -1).reshape(-1, x.shape[1])
