"""The passes that rewrite graphs, in the order in which they run; each is a function from a model to its number of matches."""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from exporter.graphs.fold_constants import fold_constants
from exporter.graphs.fold_weight_transposes import fold_weight_transposes
from exporter.graphs.share_reshape_targets import share_reshape_targets
from exporter.graphs.strip_metadata import strip_metadata

PASSES: tuple[tuple[str, Callable[[ir.Model], int]], ...] = (
    # Weights come first, because constant folding would transpose them all in memory at once.
    ("fold_weight_transposes", fold_weight_transposes),
    ("fold_constants", fold_constants),
    ("share_reshape_targets", share_reshape_targets),
    ("strip_metadata", strip_metadata),
)


def run_passes(model: ir.Model) -> dict[str, int]:
    """Run all passes on `model` in place; returns the number of matches of each."""
    return {name: run(model) for name, run in PASSES}
