"""The graphs of a bundle with the inputs and outputs that transformers' CLIP has: two towers, and both in one graph.

    bundle                                           layout
    pixels uint8 (N, H, W, 3), or float32 NCHW       pixel_values float32 (image_batch_size, 3, H, W), normalized
    ids int32 (N, L)                                 input_ids int64 (text_batch_size, sequence_length)
    image_embeds, text_embeds (N, D)                 the same; in the joined graph also logits_per_image and logits_per_text

The embeddings stay of unit length.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir

from engines.files.bundle_paths import resolve_path
from engines.manifest import Manifest, TowerName
from exporter.errors import ExportError
from exporter.layouts.input_nodes import ids_with_end, whole_pixels

# Protocol buffers end at 2 GiB; larger graphs have their weights in a file beside them.
INLINE_BYTES = 1_900_000_000
IMAGES, TEXTS, LENGTH = "image_batch_size", "text_batch_size", "sequence_length"
_NORMALIZATION = (
    "Cast",
    "Transpose",
    "Mul",
    "Add",
)  # the nodes of exporter.towers.modules.NormalizePixels, in their order


def text_graph(bundle: Path, manifest: Manifest) -> ir.Model:
    """Read the text tower; its input becomes ``input_ids`` int64, as tokenizers of transformers give them.

    A row without an end token gets one at its last position, as open_clip does: transformers.js cuts long texts behind the place
    where its tokenizer puts the end token.
    """
    assert manifest.tokenizer is not None
    model = _read(bundle, manifest, "text")
    graph = model.graph
    wide = _input("input_ids", ir.DataType.INT64, (TEXTS, LENGTH))
    nodes = ids_with_end(wide, manifest.tokenizer.end_id)
    ir.convenience.replace_all_uses_with(graph.inputs[0], nodes[-1].outputs[0])
    graph.insert_before(graph[0], nodes)
    graph.inputs[0] = wide
    _shape_output(model, (TEXTS, manifest.model.embed_dim))
    return model


def image_graph(bundle: Path, manifest: Manifest) -> ir.Model:
    """Read the image tower; its input becomes ``pixel_values``, and in float32 the graph's own normalization is taken out.

    In float16 and int8 the last bit of a normalized pixel decides to which number it is rounded, and image processors order their
    float32 operations in another way. There the pixels' whole numbers are restored, which is exact for what an image processor
    makes of bytes, and the graph's own normalization stays.

    Raises:
        ExportError: a graph of bytes does not begin with the normalization, so this project did not write it.
    """
    model = _read(bundle, manifest, "image")
    graph, (height, width) = model.graph, manifest.preprocess.size
    old = graph.inputs[0]
    values = _input("pixel_values", ir.DataType.FLOAT, (IMAGES, 3, height, width))
    if manifest.towers["image"].input.dtype == "uint8":
        nodes = _normalization(old)
        if nodes is None:
            raise ExportError(
                f"{bundle}: image.onnx does not begin with the normalization of pixels: export the bundle again with this release"
            )
        if manifest.precision == "fp32":
            ir.convenience.replace_all_uses_with(nodes[-1].outputs[0], values)
        else:
            nodes = nodes[:2]
            whole = whole_pixels(values, manifest.preprocess)
            graph.insert_before(graph[0], whole)
            ir.convenience.replace_all_uses_with(nodes[-1].outputs[0], whole[-1].outputs[0])
        graph.remove(nodes, safe=True)
    # What is left reads the batch, dimension 0 in both forms.
    ir.convenience.replace_all_uses_with(old, values)
    graph.inputs[0] = values
    _drop_unused(graph)
    _shape_output(model, (IMAGES, manifest.model.embed_dim))
    return model


def joined_graph(text: ir.Model, image: ir.Model, logit_scale: float) -> ir.Model:
    """Join both towers in one graph with logits; it takes the nodes out of `text` and `image`, which are of no use afterwards.

    Inputs ``input_ids`` and ``pixel_values``; outputs ``logits_per_image`` (images, texts), ``logits_per_text`` (texts, images),
    ``text_embeds`` and ``image_embeds``.
    """
    inputs = [text.graph.inputs[0], image.graph.inputs[0]]
    text_embeds, image_embeds = text.graph.outputs[0], image.graph.outputs[0]
    scale = ir.Value(name="logit_scale", const_value=ir.tensor(np.float32(logit_scale), name="logit_scale"))
    transposed = ir.node("Transpose", [image_embeds], {"perm": [1, 0]}, name="image_embeds_transposed")
    cosines = ir.node("MatMul", [text_embeds, transposed.outputs[0]], name="cosines")
    per_text = ir.node("Mul", [cosines.outputs[0], scale], name="logits_per_text")
    per_image = ir.node("Transpose", [per_text.outputs[0]], {"perm": [1, 0]}, name="logits_per_image")
    for node, dims in ((per_text, (TEXTS, IMAGES)), (per_image, (IMAGES, TEXTS))):
        assert node.name is not None
        _describe(node.outputs[0], node.name, ir.DataType.FLOAT, dims)
    nodes: list[ir.Node] = []
    initializers = [scale]
    for model, prefix in ((text, "text"), (image, "image")):
        taken = list(model.graph)
        weights = list(model.graph.initializers.values())
        outputs = list(model.graph.outputs)
        model.graph.inputs.clear()
        model.graph.outputs.clear()
        model.graph.remove(taken)
        model.graph.initializers.clear()
        for value in (*weights, *_outputs_of(taken)):
            if value not in outputs:
                value.name = f"{prefix}.{value.name}"
        for node in taken:
            node.name = f"{prefix}.{node.name}"
        nodes += taken
        initializers += weights
    graph = ir.Graph(
        inputs,
        [per_image.outputs[0], per_text.outputs[0], text_embeds, image_embeds],
        nodes=[*nodes, transposed, cosines, per_text, per_image],
        initializers=initializers,
        opset_imports=text.graph.opset_imports | image.graph.opset_imports,
        name="clip",
    )
    return ir.Model(graph, ir_version=max(text.ir_version, image.ir_version), producer_name="openclip-engines")


def save_graph(model: ir.Model, path: Path, inline_bytes: int = INLINE_BYTES) -> bool:
    """Write a graph with its weights inside, or, if they are larger than `inline_bytes`, in ``<path>_data`` beside it.

    Returns:
        Whether the weights are beside the graph.
    """
    weights = (value.const_value for value in model.graph.initializers.values())
    beside = sum(tensor.nbytes for tensor in weights if tensor is not None) > inline_bytes
    if beside:
        ir.save(model, path, external_data=f"{path.name}_data")
    else:
        ir.external_data.load_to_model(model)
        ir.save(model, path)
    return beside


def _graph_file(bundle: Path, manifest: Manifest, tower: TowerName) -> Path:
    """The graph of the tower's engine for ONNX Runtime; that of a quantized bundle is made for CPUs."""
    file = next(item.file for item in manifest.engines if item.kind == "onnxruntime" and item.tower == tower)
    return resolve_path(bundle, file)


def _read(bundle: Path, manifest: Manifest, tower: TowerName) -> ir.Model:
    model = ir.load(_graph_file(bundle, manifest, tower))
    for value in _outputs_of(list(model.graph)):  # shapes with "N", which is another number in each tower
        value.shape = None
        value.type = None
    return model


def _normalization(pixels: ir.Value) -> list[ir.Node] | None:
    """The nodes from the bytes to normalized pixels, in their order; None if the graph begins in another way."""
    nodes: list[ir.Node] = []
    value = pixels
    for operator in _NORMALIZATION:
        node = next((user for user in value.consumers() if user.op_type == operator), None)
        others = [] if node is None else [item for item in node.inputs if item is not value]
        if node is None or any(item is None or item.const_value is None for item in others):
            return None
        nodes.append(node)
        value = node.outputs[0]
    return nodes


def _outputs_of(nodes: list[ir.Node]) -> Iterator[ir.Value]:
    for node in nodes:
        yield from node.outputs


def _drop_unused(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _input(name: str, dtype: ir.DataType, dims: tuple[str | int, ...]) -> ir.Value:
    return _describe(ir.Value(), name, dtype, dims)


def _shape_output(model: ir.Model, dims: tuple[str | int, ...]) -> None:
    output = model.graph.outputs[0]
    assert output.name is not None
    _describe(output, output.name, ir.DataType.FLOAT, dims)


def _describe(value: ir.Value, name: str, dtype: ir.DataType, dims: tuple[str | int, ...]) -> ir.Value:
    value.name, value.type, value.shape = name, ir.TensorType(dtype), ir.Shape(dims)
    return value
