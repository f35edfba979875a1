"""A sequence of nodes that takes the place of one node, for the passes that write an operator with others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir


class NodeSequence:
    """Nodes in the order in which they compute, to be inserted before `node`.

    Args:
        graph: the graph that holds `node`.
        node: the node that they replace, or in front of which they stand.
    """

    def __init__(self, graph: ir.Graph, node: ir.Node) -> None:
        self._graph, self._node = graph, node
        self._nodes: list[ir.Node] = []

    def add(
        self,
        operator: str,
        inputs: Sequence[ir.Value | None],
        dtype: ir.DataType,
        shape: Sequence[int | ir.SymbolicDim] | ir.Shape | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Append a node of an ONNX operator with one output; returns the output, of this dtype and shape (None: not stated)."""
        output = ir.Value(shape=None if shape is None else ir.Shape(list(shape)), type=ir.TensorType(dtype))
        self._nodes.append(ir.node(operator, list(inputs), attributes=attributes, outputs=[output]))
        return output

    def constant(self, value: Any, dtype: ir.DataType) -> ir.Value:
        """Return an initializer that holds `value`, a number or an array; equal numbers of a graph share one."""
        array = np.asarray(value).astype(dtype.numpy())
        name = f"constant_{dtype.name.lower()}_{array.item()!r}" if array.ndim == 0 else self._new_name("constant")
        if name not in self._graph.initializers:
            tensor = ir.Tensor(array, dtype=dtype, name=name)
            self._graph.register_initializer(
                ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(dtype), const_value=tensor)
            )
        return self._graph.initializers[name]

    def insert(self) -> None:
        """Insert the nodes before `node`, which stays."""
        self._graph.insert_before(self._node, self._nodes)

    def replace(self, result: ir.Value) -> None:
        """Insert the nodes, and let `result` take the place of the only output of `node`, which is removed."""
        output = self._node.outputs[0]
        result.name, output.name = output.name, None
        if result.shape is None:
            result.shape = output.shape
        ir.convenience.replace_nodes_and_values(self._graph, self._node, [self._node], self._nodes, [output], [result])

    def _new_name(self, stem: str) -> str:
        number = 0
        while f"{stem}_{number}" in self._graph.initializers:
            number += 1
        return f"{stem}_{number}"
