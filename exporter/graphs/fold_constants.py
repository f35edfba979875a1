"""onnxscript's optimizer: inline functions, fold what is constant and small, merge what is computed twice, drop the unused."""

from __future__ import annotations

import onnx_ir as ir

# Bytes. Tables (positions, rotary angles) fold; weights do not come near constant folding.
_SIZE_LIMIT = 1 << 20


def fold_constants(model: ir.Model) -> int:
    """Run the optimizer; returns how many nodes went."""
    from onnxscript import optimizer

    before = model.graph.num_nodes()
    optimizer.optimize(model, input_size_limit=_SIZE_LIMIT, output_size_limit=_SIZE_LIMIT)
    return before - model.graph.num_nodes()
