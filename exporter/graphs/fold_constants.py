"""The pass of onnxscript's optimizer: inline functions, fold small constants, merge equal computations, drop unused nodes."""

from __future__ import annotations

import onnx_ir as ir

# In bytes, so that tables (positions, rotary angles) are folded and weights are not.
_SIZE_LIMIT = 1 << 20


def fold_constants(model: ir.Model) -> int:
    """Run the optimizer; returns the number of nodes that it removed."""
    from onnxscript import optimizer

    before = model.graph.num_nodes()
    optimizer.optimize(model, input_size_limit=_SIZE_LIMIT, output_size_limit=_SIZE_LIMIT)
    return before - model.graph.num_nodes()
