"""QuantizeLinear and DequantizeLinear as PyTorch operators: computed in eager, traced as one node each, translated one to one.

With these operators the calibrated module is the traced module, and the graph holds exactly the measured Q/DQ pairs, which
TensorRT and ONNX Runtime fuse into their int8 and fp8 matrix products. (PyTorch's own fake-quantize operators give a float tensor
and hide the integer one; its `quantized_decomposed` operators have no float16 and no float8.)

The semantics are those of ONNX's operators QuantizeLinear and DequantizeLinear, opset 23: symmetric, round half to even,
saturating.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

NAMESPACE = "openclip_engines"

# The largest magnitude of a quantized dtype for which scales are made; int8's is 127 and not 128, so that it is symmetric.
LARGEST: dict[torch.dtype, float] = {torch.int8: 127.0, torch.float8_e4m3fn: 448.0}


def rounded(x: torch.Tensor, scale: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """x after quantization and dequantization, in float32.

    Args:
        x: float32, any shape.
        scale: of x's shape or broadcast to it, positive.
        dtype: int8 or float8_e4m3fn.
    """
    largest = LARGEST[dtype]
    y = (x / scale).clamp_(-largest, largest)
    return (y.round_() if dtype == torch.int8 else y.to(dtype).to(torch.float32)) * scale


@torch.library.custom_op(f"{NAMESPACE}::quantize", mutates_args=())
def quantize(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    """Compute ``saturate(round(x / scale))`` in the dtype of `zero_point`.

    Args:
        x: the values, float32 or float16, of any shape.
        scale: the scale, () of x's dtype, positive.
        zero_point: zero, (); its dtype, int8 or float8_e4m3fn, is the result's.
    """
    largest = LARGEST[zero_point.dtype]
    y = x.to(torch.float32) / scale.to(torch.float32)
    if zero_point.dtype == torch.int8:
        return y.round_().clamp_(-largest - 1.0, largest).to(torch.int8)
    return y.clamp_(-largest, largest).to(zero_point.dtype)


@quantize.register_fake
def _(x: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op(f"{NAMESPACE}::dequantize", mutates_args=())
def dequantize(q: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    """Compute ``q * scale`` in the dtype of `scale`.

    Args:
        q: the quantized values, int8 or float8_e4m3fn, of any shape.
        scale: the scale or scales, () or (q.shape[axis],), float32 or float16.
        axis: the axis of q that a vector of scales belongs to; 0 for a scalar.
    """
    if scale.ndim == 0:
        return q.to(scale.dtype) * scale
    shape = [1] * q.ndim
    shape[axis] = -1
    return q.to(scale.dtype) * scale.reshape(shape)


@dequantize.register_fake
def _(q: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    return torch.empty_like(q, dtype=scale.dtype)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Make the two operators' table for ``torch.onnx.export(custom_translation_table=…)``."""
    from onnxscript import opset23 as op

    def to_quantize(x: Any, scale: Any, zero_point: Any) -> Any:
        return op.QuantizeLinear(x, scale, zero_point)

    def to_dequantize(q: Any, scale: Any, axis: int) -> Any:
        return op.DequantizeLinear(q, scale, axis=axis)

    return {
        torch.ops.openclip_engines.quantize.default: to_quantize,
        torch.ops.openclip_engines.dequantize.default: to_dequantize,
    }
