"""The passes that rewrite graphs, in the order in which they run; each is a function from a model to its number of matches."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from exporter.graphs.decompose_attention import decompose_attention
from exporter.graphs.decompose_gelu import decompose_gelu
from exporter.graphs.fold_constants import fold_constants
from exporter.graphs.fold_weight_transposes import fold_weight_transposes
from exporter.graphs.lower_opset import lower_opset
from exporter.graphs.share_reshape_targets import share_reshape_targets
from exporter.graphs.strip_metadata import strip_metadata
from exporter.options.export_options import DEFAULT_OPSET

PASSES: tuple[tuple[str, Callable[[ir.Model], int]], ...] = (
    # Weights come first, because constant folding would transpose them all in memory at once.
    ("fold_weight_transposes", fold_weight_transposes),
    ("fold_constants", fold_constants),
    ("share_reshape_targets", share_reshape_targets),
    ("strip_metadata", strip_metadata),
)
# Operators with the opset that brought them: below it they are written with older ones.
DECOMPOSITIONS: tuple[tuple[str, int, Callable[[ir.Model], int]], ...] = (
    ("decompose_attention", 23, decompose_attention),
    ("decompose_gelu", 20, decompose_gelu),
)


def run_passes(model: ir.Model, opset: int = DEFAULT_OPSET) -> dict[str, int]:
    """Run all passes on `model` in place; returns the number of matches of each.

    Args:
        model: a graph of `DEFAULT_OPSET`.
        opset: the opset that it shall have, at most `DEFAULT_OPSET`.

    Raises:
        ExportError: the opset cannot express the graph.
    """
    matches = {name: run(model) for name, run in PASSES}
    if opset < DEFAULT_OPSET:
        matches |= {name: run(model) for name, since, run in DECOMPOSITIONS if opset < since}
        matches["lower_opset"] = lower_opset(model, opset)
    return matches
