"""The pass that removes torch's debugging data: stack traces, module paths, doc strings, intermediate shapes."""

from __future__ import annotations

import onnx_ir as ir


def strip_metadata(model: ir.Model) -> int:
    """Strip the model, its nodes and values; returns the number of items that had metadata."""
    matched = _strip(model)
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        matched += _strip(graph)
        for node in graph:
            matched += _strip(node)
            for value in node.outputs:
                matched += _strip(value)
        for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
            matched += _strip(value)
    return matched


def _strip(item: ir.Model | ir.Graph | ir.Node | ir.Value) -> int:
    carried = bool(item.metadata_props) or bool(item.doc_string)
    item.metadata_props.clear()
    item.doc_string = None
    return int(carried)
