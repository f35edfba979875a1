"""The pass that writes Gelu, an operator since opset 20, with Erf or Tanh.

The formulas are those of the operator's specification. The nodes with Erf are in an order that ONNX Runtime's optimizer joins to
one kernel.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from exporter.graphs.node_sequence import NodeSequence

_CUBIC = 0.044715


def decompose_gelu(model: ir.Model) -> int:
    """Rewrite every Gelu; returns the number of rewritten nodes."""
    matched = 0
    for node in list(model.graph):
        x = node.inputs[0] if node.op_type == "Gelu" and not node.domain else None
        if x is None or x.dtype is None:
            continue
        approximate = node.attributes.get("approximate")
        write = _tanh if approximate is not None and approximate.as_string() == "tanh" else _erf
        nodes = NodeSequence(model.graph, node)
        nodes.replace(write(nodes, x, x.dtype))
        matched += 1
    return matched


def _erf(nodes: NodeSequence, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """``0.5 x (1 + erf(x / sqrt(2)))``."""
    erf = nodes.add("Erf", [nodes.add("Div", [x, nodes.constant(math.sqrt(2), dtype)], dtype, x.shape)], dtype, x.shape)
    share = nodes.add("Add", [erf, nodes.constant(1.0, dtype)], dtype, x.shape)
    product = nodes.add("Mul", [x, share], dtype, x.shape)
    return nodes.add("Mul", [product, nodes.constant(0.5, dtype)], dtype, x.shape)


def _tanh(nodes: NodeSequence, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    """``0.5 x (1 + tanh(sqrt(2 / pi) x (1 + 0.044715 x x)))``: x³ would overflow float16 from 41 on."""
    square = nodes.add("Mul", [nodes.add("Mul", [x, nodes.constant(_CUBIC, dtype)], dtype, x.shape), x], dtype, x.shape)
    factor = nodes.add("Add", [square, nodes.constant(1.0, dtype)], dtype, x.shape)
    scaled = nodes.add("Mul", [x, nodes.constant(math.sqrt(2 / math.pi), dtype)], dtype, x.shape)
    tanh = nodes.add("Tanh", [nodes.add("Mul", [scaled, factor], dtype, x.shape)], dtype, x.shape)
    share = nodes.add("Add", [tanh, nodes.constant(1.0, dtype)], dtype, x.shape)
    half = nodes.add("Mul", [x, nodes.constant(0.5, dtype)], dtype, x.shape)
    return nodes.add("Mul", [half, share], dtype, x.shape)
