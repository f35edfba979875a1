"""A bundle's graphs with the inputs and outputs of Hugging Face's CLIP classes.

| file | inputs | outputs |
| --- | --- | --- |
| text_model | input_ids int64 (T, L) | text_embeds (T, D) |
| vision_model | pixel_values float32 (I, 3, H, W), normalized | image_embeds (I, D) |
| model | both | logits_per_image (I, T), logits_per_text (T, I), text_embeds, image_embeds |

The embeddings have unit length, as in a bundle. The logits are `logit_scale` times the cosines.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, compose, helper, numpy_helper

from engines.manifest import Manifest
from exporter.errors import ExportError

_NORMALIZATION = ("Cast", "Transpose", "Mul", "Add")  # of uint8 pixels (N, H, W, 3), in front of the image tower
_LARGEST_FILE = 1_900_000_000  # bytes; protobuf's limit is 2 GiB


def text_graph(bundle: Path, manifest: Manifest) -> onnx.ModelProto:
    """Load the text tower, with int64 ids as Hugging Face's tokenizers give them."""
    model = onnx.load(bundle / manifest.towers["text"].graph)
    graph = model.graph
    ids = graph.input[0].name
    graph.node.insert(0, helper.make_node("Cast", ["input_ids"], [ids], to=TensorProto.INT32, name="input_ids_int32"))
    _signature(
        graph,
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["text_batch_size", "sequence_length"]),
        ["text_batch_size", manifest.model.embed_dim],
    )
    return model


def vision_graph(bundle: Path, manifest: Manifest) -> onnx.ModelProto:
    """Load the image tower, with normalized float32 pixels: the normalization in front of a uint8 input is taken off.

    Raises:
        ExportError: the graph does not begin with the normalization that this project writes.
    """
    model = onnx.load(bundle / manifest.towers["image"].graph)
    graph = model.graph
    pixels = graph.input[0].name
    entry = pixels
    if manifest.towers["image"].input.dtype == "uint8":
        entry = _take_off_normalization(graph, pixels)
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in (
                entry,
                pixels,
            ):  # `pixels` is left where a Shape reads the batch, which is first in both layouts
                node.input[i] = "pixel_values"
    height, width = manifest.preprocess.size
    _signature(
        graph,
        helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["image_batch_size", 3, height, width]),
        ["image_batch_size", manifest.model.embed_dim],
    )
    return model


def joint_graph(text: onnx.ModelProto, vision: onnx.ModelProto, logit_scale: float) -> onnx.ModelProto:
    """Join both towers, and compute the logits, which is the whole of a ``CLIPModel``."""
    parts = [
        compose.add_prefix(model, prefix, rename_inputs=False, rename_outputs=False)
        for prefix, model in (("text.", text), ("vision.", vision))
    ]
    nodes = [
        helper.make_node("Transpose", ["image_embeds"], ["image_embeds_t"], perm=[1, 0]),
        helper.make_node("MatMul", ["text_embeds", "image_embeds_t"], ["cosines"]),
        helper.make_node("Mul", ["cosines", "logit_scale"], ["logits_per_text"]),
        helper.make_node("Transpose", ["logits_per_text"], ["logits_per_image"], perm=[1, 0]),
    ]
    logits = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in (
            ("logits_per_image", ["image_batch_size", "text_batch_size"]),
            ("logits_per_text", ["text_batch_size", "image_batch_size"]),
        )
    ]
    graph = helper.make_graph(
        [node for part in parts for node in part.graph.node] + nodes,
        "clip",
        [part.graph.input[0] for part in parts],
        [*logits, *(part.graph.output[0] for part in parts)],
        [tensor for part in parts for tensor in part.graph.initializer]
        + [numpy_helper.from_array(np.float32(logit_scale), "logit_scale")],
    )
    return helper.make_model(
        graph,
        opset_imports=text.opset_import,
        ir_version=max(part.ir_version for part in parts),
        functions=[function for part in parts for function in part.functions],
    )


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Check and write a graph; one that is too large for a single file keeps its weights in ``<name>.onnx_data`` beside it."""
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    if size <= _LARGEST_FILE:
        onnx.save(model, path)
    else:
        onnx.save(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=1024)
    onnx.checker.check_model(str(path))


def _take_off_normalization(graph: onnx.GraphProto, pixels: str) -> str:
    """Remove the nodes that normalize uint8 pixels; returns the name of the tensor that they made."""
    current, removed = pixels, []
    for kind in _NORMALIZATION:
        node = next((n for n in graph.node if n.op_type == kind and n.input[0] == current), None)
        if node is None:
            raise ExportError(f"{graph.name}: the graph does not begin with {', '.join(_NORMALIZATION)}; report it")
        removed.append(node)
        current = node.output[0]
    for node in removed:
        graph.node.remove(node)
    return current


def _signature(graph: onnx.GraphProto, value: onnx.ValueInfoProto, shape: list[str | int]) -> None:
    """Replace the graph's input, name the dimensions of its output, and drop weights that no node reads any more."""
    output = helper.make_tensor_value_info(graph.output[0].name, TensorProto.FLOAT, shape)
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    for field, values in ((graph.input, [value]), (graph.output, [output]), (graph.initializer, kept)):
        del field[:]
        field.extend(values)
    del graph.value_info[:]
