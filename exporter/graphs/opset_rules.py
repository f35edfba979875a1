"""The rules of an opset for a node: whether its operator exists there, with the node's attributes and dtypes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_ir as ir


def schema_of(node: ir.Node, opset: int) -> onnx.defs.OpSchema | None:
    """Return the operator's definition in an opset; None where there is none."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated else schema


def unknown_attributes(node: ir.Node, schema: onnx.defs.OpSchema) -> list[str]:
    """List the node's attributes that the definition has not."""
    return [name for name in node.attributes if name not in schema.attributes]


def is_default(attribute: ir.Attr, schema: onnx.defs.OpSchema) -> bool:
    """Whether an attribute has the value that the definition gives it where it is missing."""
    known = schema.attributes.get(attribute.name)
    if known is None or not known.default_value.name:
        return False
    return bool(onnx.helper.get_attribute_value(known.default_value) == attribute.value)


def refused_inputs(node: ir.Node, schema: onnx.defs.OpSchema) -> list[int]:
    """List the places of the inputs whose dtypes the definition does not allow."""
    return list(_refused(node.inputs, schema.inputs, schema))


def refused_outputs(node: ir.Node, schema: onnx.defs.OpSchema) -> list[int]:
    """List the places of the outputs whose dtypes the definition does not allow."""
    return list(_refused(node.outputs, schema.outputs, schema))


def is_allowed(node: ir.Node, opset: int) -> bool:
    """Whether the node is one of the opset's, with all its attributes and dtypes."""
    schema = schema_of(node, opset)
    if schema is None or unknown_attributes(node, schema):
        return False
    return not refused_inputs(node, schema) and not refused_outputs(node, schema)


def _refused(
    values: Sequence[ir.Value | None],
    parameters: Sequence[onnx.defs.OpSchema.FormalParameter],
    schema: onnx.defs.OpSchema,
) -> Iterator[int]:
    allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
    for place, value in enumerate(values):
        if value is None or value.dtype is None or not parameters:
            continue
        # The last parameter of a variadic operator stands for all further values.
        parameter = parameters[min(place, len(parameters) - 1)].type_str
        if f"tensor({value.dtype.name.lower()})" not in allowed.get(parameter, [parameter]):
            yield place
