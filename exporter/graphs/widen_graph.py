"""The widening of a bfloat16 graph's types to float32, for a runtime without bfloat16 kernels.

ONNX Runtime's CPU provider has no such kernels. The widened copy has the same nodes and the same (rounded) weights, so running it
proves the graph itself; the rounding simulation (`exporter.precision.rounding`) measures the cost of bfloat16 arithmetic.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir


def widen_graph(path: Path, out: Path) -> int:
    """Write a widened copy of the graph `path` to `out`, and its weights to ``<out>.data``; returns the number of changed types."""
    model = ir.load(path)
    changed = 0
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.BFLOAT16:
            value.const_value = wide_tensor(tensor, tensor.name)
            value.type = ir.TensorType(ir.DataType.FLOAT)
            changed += 1
    for node in model.graph:
        if node.op_type == "Cast" and node.attributes["to"].as_int() == ir.DataType.BFLOAT16:
            node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)
            changed += 1
        for output in node.outputs:
            if output.dtype == ir.DataType.BFLOAT16:
                output.type = ir.TensorType(ir.DataType.FLOAT)
                changed += 1
    ir.save(model, out, external_data=f"{out.name}.data")
    return changed


def wide_tensor(tensor: ir.TensorProtocol, name: str | None) -> ir.LazyTensor:
    """`tensor` in float32, converted when it is written, under a name."""

    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(tensor.numpy().astype(np.float32), name=name)

    return ir.LazyTensor(evaluate, dtype=ir.DataType.FLOAT, shape=ir.Shape(tensor.shape.numpy()), name=name)
