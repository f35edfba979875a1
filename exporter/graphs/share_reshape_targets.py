"""The pass that gives Reshape constant targets where at most one dimension is unknown in each.

A reshape that splits or joins heads is written with a target computed from the input's shape (Shape, Gather, Concat). Where all
leading dimensions are those of the input, the constant target ``[0, 0, …]`` has the same meaning, because 0 copies the input's
dimension.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir


def share_reshape_targets(model: ir.Model) -> int:
    """Rewrite the targets; returns the number of changed reshapes."""
    graph = model.graph
    matched = 0
    for node in list(graph):
        if node.op_type != "Reshape" or node.domain:
            continue
        source, target = node.inputs[0], node.inputs[1]
        if source is None or target is None or target.const_value is not None:
            continue
        constant = _copying_target(source.shape, node.outputs[0].shape)
        if constant is None:
            continue
        name = "reshape_" + "_".join(str(size).replace("-", "m") for size in constant)
        if name not in graph.initializers:
            tensor = ir.Tensor(np.array(constant, dtype=np.int64), name=name)
            value = ir.Value(
                name=name, shape=ir.Shape([len(constant)]), type=ir.TensorType(ir.DataType.INT64), const_value=tensor
            )
            graph.register_initializer(value)
        node.replace_input_with(1, graph.initializers[name])
        node.attributes.pop("allowzero", None)
        matched += 1
    if matched:
        _remove_unused(graph)
    return matched


def _copying_target(before: ir.Shape | None, after: ir.Shape | None) -> list[int] | None:
    """Return ``[0, …, n, m]`` where the leading dimensions are equal and at most one of the others is unknown; else None."""
    if before is None or after is None:
        return None
    target: list[int] = []
    copying = True
    for i, size in enumerate(after):
        copying = copying and i < len(before) and before[i] == size
        if isinstance(size, int):
            target.append(size)
        elif copying:
            target.append(0)
        elif -1 in target:
            return None
        else:
            target.append(-1)
    return target


def _remove_unused(graph: ir.Graph) -> None:
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(ir.Model(graph, ir_version=10))
