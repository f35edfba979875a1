"""The pass that replaces ``Transpose(weight)`` by a weight that is transposed when it is written, one at a time.

`torch.onnx` writes a Linear as MatMul with a transposed initializer. Folding those transposes the usual way holds every weight
twice in memory; here each weight is transposed while the file is written, and freed afterwards.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir


def fold_weight_transposes(model: ir.Model) -> int:
    """Fold every Transpose of an initializer lazily; returns the number of folded nodes."""
    graph = model.graph
    matched = 0
    for node in list(graph):
        if node.op_type != "Transpose" or node.domain:
            continue
        source = node.inputs[0]
        if source is None or not source.is_initializer() or source.is_graph_output():
            continue
        tensor = source.const_value
        if tensor is None:
            continue
        sizes = tensor.shape.numpy()
        attribute = node.attributes.get("perm")
        perm = tuple(attribute.as_ints()) if attribute is not None else tuple(reversed(range(len(tensor.shape))))
        output = node.outputs[0]
        if output.is_graph_output():
            continue
        shape = ir.Shape([sizes[axis] for axis in perm])
        name = f"{source.name}.T"
        while name in graph.initializers:
            name += "'"
        lazy = ir.LazyTensor(_transposed(tensor, perm, name), dtype=tensor.dtype, shape=shape, name=name)
        value = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=lazy)
        graph.register_initializer(value)
        output.replace_all_uses_with(value)
        graph.remove(node, safe=True)
        if not source.uses():
            assert source.name is not None
            del graph.initializers[source.name]
        matched += 1
    return matched


def _transposed(tensor: ir.TensorProtocol, perm: tuple[int, ...], name: str) -> Callable[[], ir.TensorProtocol]:
    def evaluate() -> ir.TensorProtocol:
        return ir.Tensor(np.ascontiguousarray(tensor.numpy().transpose(perm)), dtype=tensor.dtype, name=name)

    return evaluate
