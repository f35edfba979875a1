"""The pass that sets a graph's opset to an older one, after those that write the operators that it has not.

A node whose dtypes came later than the opset (float16 in QuantizeLinear before opset 19, bfloat16 in Conv before 22) computes in
float32 between casts; weights of such nodes are written in float32. Attributes that came later are left out where they have their
default, as those of QuantizeLinear. The IR version becomes that of ONNX's first release with the opset, because a runtime refuses
files with a newer one.
"""

from __future__ import annotations

import onnx_ir as ir
from onnx import helper

from exporter.errors import ExportError
from exporter.graphs.node_sequence import NodeSequence
from exporter.graphs.opset_rules import (
    is_allowed,
    is_default,
    refused_inputs,
    refused_outputs,
    schema_of,
    unknown_attributes,
)
from exporter.graphs.widen_graph import wide_tensor
from exporter.options.export_options import DEFAULT_OPSET

_HALF = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOAT = ir.DataType.FLOAT


def lower_opset(model: ir.Model, opset: int) -> int:
    """Set the opset and IR version; returns the number of nodes that now compute in float32.

    Raises:
        ExportError: the opset cannot express a node; the message has the first one that can.
    """
    widened = 0
    for node in list(model.graph):
        _drop_defaults(node, opset)
        widened += _widen(model.graph, node, opset)
        if not is_allowed(node, opset):
            raise ExportError(_too_old(node, opset))
    model.opset_imports[""] = opset
    model.ir_version = min(model.ir_version, helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset])
    return widened


def _drop_defaults(node: ir.Node, opset: int) -> None:
    """Remove the attributes that came later than the opset, where they have the value that changes nothing."""
    older, newer = schema_of(node, opset), schema_of(node, DEFAULT_OPSET)
    if older is None or newer is None:
        return
    for name in unknown_attributes(node, older):
        if is_default(node.attributes[name], newer):
            node.attributes.pop(name)


def _widen(graph: ir.Graph, node: ir.Node, opset: int) -> bool:
    """Cast to float32 the inputs of a half precision that the opset refuses, and cast such outputs back."""
    schema = schema_of(node, opset)
    if schema is None:
        return False
    inputs = [i for i in refused_inputs(node, schema) if _dtype(node.inputs[i]) in _HALF]
    outputs = [i for i in refused_outputs(node, schema) if _dtype(node.outputs[i]) in _HALF]
    before = NodeSequence(graph, node)
    for place in inputs:
        value = node.inputs[place]
        assert value is not None
        node.replace_input_with(place, _wide(graph, before, value))
        if value.is_initializer() and not value.uses() and value.name is not None:
            del graph.initializers[value.name]
    before.insert()
    for place in outputs:
        _narrow(graph, node, node.outputs[place])
    return bool(inputs or outputs)


def _wide(graph: ir.Graph, nodes: NodeSequence, value: ir.Value) -> ir.Value:
    """`value` in float32: another initializer for an initializer, so that scales stay constants, else a Cast."""
    tensor = value.const_value
    if tensor is None or not value.is_initializer():
        return nodes.add("Cast", [value], _FLOAT, value.shape, to=_FLOAT)
    name = f"{value.name}.float32"
    if name not in graph.initializers:
        shape = ir.Shape(tensor.shape.numpy())
        graph.register_initializer(
            ir.Value(name=name, shape=shape, type=ir.TensorType(_FLOAT), const_value=wide_tensor(tensor, name))
        )
    return graph.initializers[name]


def _narrow(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    """Make `output` float32, and let a Cast to its old dtype take its place."""
    dtype, shape = output.dtype, output.shape
    cast = ir.node("Cast", [output], attributes={"to": dtype})
    narrow = cast.outputs[0]
    narrow.type, narrow.shape = output.type, shape
    narrow.name, output.name = output.name, f"{output.name}.float32"
    output.type = ir.TensorType(_FLOAT)
    output.replace_all_uses_with(narrow, replace_graph_outputs=True)
    cast.replace_input_with(0, output)
    graph.insert_after(node, cast)


def _dtype(value: ir.Value | None) -> ir.DataType | None:
    return None if value is None else value.dtype


def _too_old(node: ir.Node, opset: int) -> str:
    dtypes = sorted(
        {value.dtype.name.lower() for value in node.inputs if value is not None and value.dtype is not None}
    )
    newer = next((later for later in range(opset + 1, DEFAULT_OPSET) if is_allowed(node, later)), DEFAULT_OPSET)
    return f"--opset {opset} cannot express {node.op_type} of {', '.join(dtypes)}: pass --opset {newer}"
