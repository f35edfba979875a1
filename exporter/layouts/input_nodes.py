"""Nodes between an input as transformers has it and the bundle's graph; the last node's output is the new input of the graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from engines.manifest import Preprocess


def ids_with_end(ids: ir.Value, end_id: int) -> list[ir.Node]:
    """Make nodes from ids int64 (N, L) to int32, in which a row without `end_id` has it at its last position."""
    numbers = {"end_id": end_id, "first": 0, "last": -1, "most": np.iinfo(np.int64).max, "along": 1}
    constants = [_constant(name, np.array([number], np.int64)) for name, number in numbers.items()]
    end, first, last, most, along = constants
    before = _node("Slice", "ids_before_last", [ids, *_outputs(first, last, along)])
    behind = _node("Slice", "last_ids", [ids, *_outputs(last, most, along)])
    highest = _node("ReduceMax", "highest_ids", [ids, *_outputs(along)], keepdims=1)
    ended = _node("Equal", "ended", _outputs(highest, end))
    mended = _node("Where", "last_ids_mended", _outputs(ended, behind, end))
    whole = _node("Concat", "ids_ended", _outputs(before, mended), axis=1)
    cast = _node("Cast", "ids_int32", _outputs(whole), to=ir.DataType.INT32)
    return [*constants, before, behind, highest, ended, mended, whole, cast]


def whole_pixels(values: ir.Value, preprocess: Preprocess) -> list[ir.Node]:
    """Make nodes from normalized pixels, float32 (N, 3, H, W), to the whole numbers 0 … 255 of which they were made, float32."""
    mean, std = (255 * np.array(item, np.float64).reshape(3, 1, 1) for item in (preprocess.mean, preprocess.std))
    gain, shift = _constant("pixel_gain", std.astype(np.float32)), _constant("pixel_shift", mean.astype(np.float32))
    scaled = _node("Mul", "pixels_scaled", [values, *_outputs(gain)])
    shifted = _node("Add", "pixels_shifted", _outputs(scaled, shift))
    return [gain, shift, scaled, shifted, _node("Round", "pixels_whole", _outputs(shifted))]


def _constant(name: str, value: np.ndarray) -> ir.Node:
    return _node("Constant", name, [], value=ir.tensor(value))


def _node(operator: str, name: str, inputs: list[ir.Value], **attributes: Any) -> ir.Node:
    node = ir.node(operator, inputs, attributes, name=f"layout_{name}")
    node.outputs[0].name = f"layout_{name}"
    return node


def _outputs(*nodes: ir.Node) -> list[ir.Value]:
    return [node.outputs[0] for node in nodes]
