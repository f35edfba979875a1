"""The pass that writes Attention, an operator since opset 23, with MatMul, Add and Softmax.

``softmax(scale q k^T + mask) v``, as in the operator's specification, with its dtypes: everything is in the dtype of q, and the
softmax in that of the attribute ``softmax_precision``. The scale multiplies q before the product, so that float16 does not
overflow. A masked position gets the dtype's lowest finite number; causal masks and boolean masks become additive ones that all
blocks share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import onnx_ir as ir
import torch

from exporter.graphs.node_sequence import NodeSequence

_INT64, _BOOL = ir.DataType.INT64, ir.DataType.BOOL
# Attributes that no tower has; an Attention with another value stays, and the check of the opset names it.
_UNUSED = {"q_num_heads": 0, "kv_num_heads": 0, "softcap": 0.0, "qk_matmul_output_mode": 0}


def decompose_attention(model: ir.Model) -> int:
    """Rewrite every Attention with inputs (N, H, L, D) and no cache; returns the number of rewritten nodes."""
    masks = _Masks(model.graph)
    matched = 0
    for node in list(model.graph):
        if node.op_type != "Attention" or node.domain or not _is_plain(node):
            continue
        q, k, v, mask = (*node.inputs, None)[:4]
        assert q is not None
        assert k is not None
        assert v is not None
        additive = masks.additive(node, q, k, mask)
        nodes = NodeSequence(model.graph, node)
        nodes.replace(_attention(nodes, node, q, k, v, additive))
        matched += 1
    return matched


def _is_plain(node: ir.Node) -> bool:
    shapes = [value.shape for value in node.inputs[:3] if value is not None and value.shape is not None]
    if len(shapes) != 3 or any(len(shape) != 4 or shape[1] != shapes[0][1] for shape in shapes):
        return False
    if not isinstance(shapes[0][3], int):
        return False
    extra = any(value is not None for value in node.inputs[4:]) or any(value.uses() for value in node.outputs[1:])
    return not extra and all(
        node.attributes[name].value == value for name, value in _UNUSED.items() if name in node.attributes
    )


def _attention(
    nodes: NodeSequence, node: ir.Node, q: ir.Value, k: ir.Value, v: ir.Value, mask: ir.Value | None
) -> ir.Value:
    assert q.dtype is not None
    assert q.shape is not None
    assert k.shape is not None
    dtype, size = q.dtype, q.shape[3]
    assert isinstance(size, int)
    given, wider = node.attributes.get("scale"), node.attributes.get("softmax_precision")
    scale = given.as_float() if given is not None else 1.0 / math.sqrt(size)
    softmax_dtype = ir.DataType(wider.as_int()) if wider is not None else dtype
    scaled = nodes.add("Mul", [q, nodes.constant(scale, dtype)], dtype, q.shape)
    keys = nodes.add("Transpose", [k], dtype, [k.shape[i] for i in (0, 1, 3, 2)], perm=[0, 1, 3, 2])
    shape = [*q.shape[:3], k.shape[2]]
    scores = nodes.add("MatMul", [scaled, keys], dtype, shape)
    if mask is not None:
        scores = nodes.add("Add", [scores, mask], dtype, shape)
    if softmax_dtype != dtype:
        scores = nodes.add("Cast", [scores], softmax_dtype, shape, to=softmax_dtype)
    weights = nodes.add("Softmax", [scores], softmax_dtype, shape, axis=-1)
    if softmax_dtype != dtype:
        weights = nodes.add("Cast", [weights], dtype, shape, to=dtype)
    return nodes.add("MatMul", [weights, v], dtype)


class _Masks:
    """The additive masks of a graph, each made once, in front of the first attention that needs it."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._made: dict[tuple[object, ...], ir.Value] = {}

    def additive(self, node: ir.Node, q: ir.Value, k: ir.Value, mask: ir.Value | None) -> ir.Value | None:
        """The mask to add to the scores, of q's dtype and broadcast to (N, H, L, S); None where nothing is masked."""
        assert q.dtype is not None
        causal = node.attributes.get("is_causal")
        masks = [] if mask is None else [self._of_mask(node, mask, q.dtype)]
        if causal is not None and causal.as_int():
            masks.append(self._causal(node, q, k, q.dtype))
        if len(masks) < 2:
            return masks[0] if masks else None
        nodes = NodeSequence(self._graph, node)
        both = nodes.add("Add", masks, q.dtype)
        nodes.insert()
        return both

    def _of_mask(self, node: ir.Node, mask: ir.Value, dtype: ir.DataType) -> ir.Value:
        if mask.dtype == dtype:
            return mask
        key = (id(mask), dtype)
        if key not in self._made:
            nodes = NodeSequence(self._graph, node)
            if mask.dtype == _BOOL:
                self._made[key] = _where_visible(nodes, mask, dtype, mask.shape)
            else:
                self._made[key] = nodes.add("Cast", [mask], dtype, mask.shape, to=dtype)
            nodes.insert()
        return self._made[key]

    def _causal(self, node: ir.Node, q: ir.Value, k: ir.Value, dtype: ir.DataType) -> ir.Value:
        """(L, S): position j is visible to position i where j <= i."""
        assert q.shape is not None
        assert k.shape is not None
        sizes = (q.shape[2], k.shape[2])
        # A size without a name may be another one in each block.
        unnamed = any(isinstance(size, ir.SymbolicDim) and size.value is None for size in sizes)
        key = (dtype, *(id(node) if unnamed else str(size) for size in sizes))
        if key not in self._made:
            nodes = NodeSequence(self._graph, node)
            rows, columns = _positions(nodes, q), _positions(nodes, k)
            rows = nodes.add("Unsqueeze", [rows, nodes.constant([1], _INT64)], _INT64, [sizes[0], 1])
            visible = nodes.add("GreaterOrEqual", [rows, columns], _BOOL, sizes)
            self._made[key] = _where_visible(nodes, visible, dtype, sizes)
            nodes.insert()
        return self._made[key]


def _positions(nodes: NodeSequence, value: ir.Value) -> ir.Value:
    """The positions 0, 1, … of the third axis of `value`, int64."""
    assert value.shape is not None
    size = nodes.add("Shape", [value], _INT64, [1], start=2, end=3)
    end = nodes.add("Squeeze", [size, nodes.constant([0], _INT64)], _INT64, [])
    return nodes.add("Range", [nodes.constant(0, _INT64), end, nodes.constant(1, _INT64)], _INT64, [value.shape[2]])


def _where_visible(
    nodes: NodeSequence,
    visible: ir.Value,
    dtype: ir.DataType,
    shape: Sequence[int | ir.SymbolicDim] | ir.Shape | None,
) -> ir.Value:
    lowest = torch.finfo(getattr(torch, dtype.name.lower())).min
    return nodes.add("Where", [visible, nodes.constant(0.0, dtype), nodes.constant(lowest, dtype)], dtype, shape)
