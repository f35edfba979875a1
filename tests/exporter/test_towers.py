"""exporter.towers: rebuilt towers give the model's own embeddings, and trace to clean graphs."""

from __future__ import annotations

import inspect
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from shallow import FAMILIES, register

from engines.manifest import TextLength
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.source.loading import Source, load_source
from exporter.towers.modules import ImageTower, TextTower, image_tower, text_tower
from exporter.towers.units import Whole

LENGTH = TextLength(keep="end", extra=0, min=2, max=77)
# Attention blocks of the image tower, of the text tower.
ATTENTION = {
    "RN50": (1, 2),
    "RN50x4": (1, 2),
    "convnext_base_w": (0, 2),
    "convnext_large_d": (0, 2),
    "coca_ViT-B-32": (3, 2),
}


def some_pixels(source: Source, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    height, width = source.preprocess.size
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def some_ids(source: Source, lengths: tuple[int, ...]) -> torch.Tensor:
    """Rows of start, words, end, padding, as the model's tokenizer lays them out."""
    context = int(source.text_config.get("context_length", 77))
    generator = torch.Generator().manual_seed(2)
    bert = "hf_model_name" in source.text_config
    start, end, pad, words = (0, 2, 1, (5, 900)) if bert else (49406, 49407, 0, (1, 49000))
    rows = torch.full((len(lengths), context), pad, dtype=torch.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[: min(length, context)] = torch.randint(
            *words, (min(length, context),), dtype=torch.int32, generator=generator
        )
        row[0], row[min(length, context) - 1] = start, end
    return rows


def eager_images(source: Source, pixels: torch.Tensor) -> np.ndarray:
    model: Any = source.model
    mean, std = torch.tensor(source.preprocess.mean), torch.tensor(source.preprocess.std)
    normalized = ((pixels.float() / 255 - mean) / std).permute(0, 3, 1, 2)
    return model.encode_image(normalized, normalize=True).numpy()


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A shallow model of each family, eager's embeddings, and both towers as modules and as graphs."""
    folder = tmp_path_factory.mktemp("family")
    source = load_source(register(request.param, folder), "none", with_tokenizer=False)
    model: Any = source.model
    pixels, ids = some_pixels(source), some_ids(source, (3, 9, 40, 77))
    with torch.inference_mode():
        images, texts = eager_images(source, pixels), model.encode_text(ids.long(), normalize=True).numpy()
        towers = {"image": image_tower(model, source.preprocess), "text": text_tower(model)}
    graphs = {}
    for name, tower in towers.items():
        example = example_input(tower, source.preprocess.size, 9)
        graphs[name] = export_graph(tower, example, folder / f"{name}.onnx", LENGTH if name == "text" else None)
    yield {
        "name": request.param,
        "source": source,
        "pixels": pixels,
        "ids": ids,
        "eager": {"image": images, "text": texts},
        "towers": towers,
        "graphs": graphs,
    }
    shutil.rmtree(folder)  # all families together are 7 GB


def run(graph: OnnxGraph, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    return session.run([graph.output.name], {graph.input.name: inputs})[0]


class TestEveryFamily:
    def test_is_rebuilt(self, family: dict[str, Any]) -> None:
        for name in ("image", "text"):
            encoder = family["towers"][name].encoder
            assert len(encoder.blocks) >= 2, "traced as it is: no family knew it"
            assert not any(isinstance(unit, Whole) for _, unit in encoder.units()) or "convnext" in family["name"]

    def test_modules_equal_eager(self, family: dict[str, Any]) -> None:
        with torch.inference_mode():
            np.testing.assert_allclose(family["towers"]["image"](family["pixels"]), family["eager"]["image"], atol=1e-6)
            np.testing.assert_allclose(family["towers"]["text"](family["ids"]), family["eager"]["text"], atol=1e-6)

    def test_graphs_equal_eager(self, family: dict[str, Any]) -> None:
        graphs = family["graphs"]
        np.testing.assert_allclose(run(graphs["image"], family["pixels"].numpy()), family["eager"]["image"], atol=2e-6)
        np.testing.assert_allclose(run(graphs["text"], family["ids"].numpy()), family["eager"]["text"], atol=2e-6)

    def test_batch_is_dynamic(self, family: dict[str, Any]) -> None:
        for name, inputs in (("image", family["pixels"]), ("text", family["ids"])):
            one = run(family["graphs"][name], inputs[:1].numpy())
            np.testing.assert_allclose(one, family["eager"][name][:1], atol=2e-6)

    def test_text_length_is_dynamic(self, family: dict[str, Any]) -> None:
        cut = family["ids"][:1, :4].numpy()  # three ids and, for CoCa, the one padding that takes part
        np.testing.assert_allclose(run(family["graphs"]["text"], cut), family["eager"]["text"][:1], atol=2e-6)

    def test_signature(self, family: dict[str, Any]) -> None:
        height, width = family["source"].preprocess.size
        image, text = family["graphs"]["image"], family["graphs"]["text"]
        dim = family["source"].info.embed_dim
        assert (image.input.name, image.input.dtype, image.input.shape) == ("pixels", "uint8", ("N", height, width, 3))
        assert (text.input.name, text.input.dtype, text.input.shape) == ("ids", "int32", ("N", "L"))
        assert (image.output.name, image.output.shape) == ("image_embeds", ("N", dim))
        assert (text.output.name, text.output.shape) == ("text_embeds", ("N", dim))

    def test_one_attention_node_per_block(self, family: dict[str, Any]) -> None:
        image, text = (family["graphs"][name].operators.get("Attention", 0) for name in ("image", "text"))
        assert (image, text) == ATTENTION.get(family["name"], (2, 2))

    def test_attention_blocks_have_at_most_six_shape_nodes(self, family: dict[str, Any]) -> None:
        for name in ("image", "text"):
            for nodes in attention_neighbourhoods(family["graphs"][name]):
                shapes = sum(nodes[kind] for kind in SHAPE_OPERATORS)
                # CoCa's pooling repeats a constant query for the batch (Shape, Concat, Expand); a rotation by halves splits
                # and joins them.
                assert shapes <= (7 if nodes["Expand"] else 8 if nodes["Neg"] else 6), nodes

    def test_causal_towers_say_so(self, family: dict[str, Any]) -> None:
        model = ir.load(family["graphs"]["text"].path)
        causal = [n.attributes["is_causal"].as_int() for n in model.graph if n.op_type == "Attention"]
        masks = [len(n.inputs) > 3 and n.inputs[3] is not None for n in model.graph if n.op_type == "Attention"]
        if "roberta" in family["name"] or "coca" in family["name"]:
            assert all(masks)
        else:
            assert causal == [1] * len(causal)
            assert not any(masks)

    def test_no_metadata_is_shipped(self, family: dict[str, Any]) -> None:
        for graph in family["graphs"].values():
            model = ir.load(graph.path)
            assert not model.metadata_props
            for node in model.graph:
                assert not node.metadata_props
                assert not node.doc_string

    def test_weights_are_external_and_aligned(self, family: dict[str, Any]) -> None:
        # onnx-ir 1.0 aligns what is larger than a MiB, and cannot be told otherwise.
        aligned = 4096 if "alignment" in inspect.signature(ir.save).parameters else 1 << 20
        for graph in family["graphs"].values():
            assert graph.path.stat().st_size < 400_000
            for value in ir.load(graph.path).graph.initializers.values():
                tensor = value.const_value
                assert tensor is not None
                if tensor.nbytes > 4096:
                    assert isinstance(tensor, ir.ExternalTensor)
                    assert tensor.nbytes <= aligned or (tensor.offset or 0) % 4096 == 0


SHAPE_OPERATORS = (
    "Reshape",
    "Transpose",
    "Split",
    "Slice",
    "Gather",
    "Shape",
    "Concat",
    "Squeeze",
    "Unsqueeze",
    "Expand",
)


def attention_neighbourhoods(graph: OnnxGraph) -> list[Counter[str]]:
    """For every Attention node: the operators between the projections before it and the projection after it."""
    model = ir.load(graph.path)
    found = []
    for node in model.graph:
        if node.op_type != "Attention":
            continue
        seen: dict[int, ir.Node] = {}
        walk(list(node.inputs)[:3], seen, forward=False)
        walk(list(node.outputs), seen, forward=True)
        found.append(Counter(n.op_type for n in seen.values()))
    return found


def walk(values: list[Any], seen: dict[int, ir.Node], forward: bool) -> None:
    for value in values:
        if value is None:
            continue
        nodes = [use.node for use in value.uses()] if forward else [value.producer()]
        for node in nodes:
            # A projection, a norm or a position addition ends the neighbourhood; rotary arithmetic is part of it.
            if node is None or id(node) in seen or node.op_type in ("MatMul", "Gemm", "LayerNormalization"):
                continue
            if node.op_type == "Add" and any(i is not None and i.is_initializer() for i in node.inputs):
                continue
            seen[id(node)] = node
            walk(list(node.outputs) if forward else list(node.inputs), seen, forward)


def test_float32_input_takes_normalized_pixels(tmp_path: Path) -> None:
    source = load_source(register("ViT-B-32", tmp_path), "none", with_tokenizer=False)
    model: Any = source.model
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        expected = model.encode_image(x, normalize=True).numpy()
        tower = image_tower(model, source.preprocess, "float32")
        assert isinstance(tower, ImageTower)
        graph = export_graph(tower, example_input(tower, source.preprocess.size, 0), tmp_path / "image.onnx")
    assert graph.input.dtype == "float32"
    assert graph.input.shape == ("N", 3, 224, 224)
    np.testing.assert_allclose(run(graph, x.numpy()), expected, atol=2e-6)


@pytest.mark.parametrize(
    "text",
    [
        {"pool_type": "last", "no_causal_mask": True},
        {"pool_type": "first", "no_causal_mask": True},
        {"pool_type": "eos", "eos_id": 49407},
        {"proj_bias": True},
        {"proj_type": "none", "width": 512},
        {"ls_init_value": 0.3},
    ],
    ids=str,
)
def test_text_variants_of_other_checkpoints(text: dict[str, Any], tmp_path: Path) -> None:
    """SigLIP's kind of text tower and other settings of open_clip's configurations."""
    import json

    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = 1
    config["text_cfg"] |= {"layers": 2, **text}
    config["custom_text"] = True
    name = f"variant-{abs(hash(str(text)))}"
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    source = load_source(name, "none", with_tokenizer=False)
    model: Any = source.model
    ids = some_ids(source, (3, 20, 77))
    with torch.inference_mode():
        expected = model.encode_text(ids.long(), normalize=True)
        tower = text_tower(model)
        assert isinstance(tower, TextTower)
        assert len(tower.encoder.blocks) == 2
        np.testing.assert_allclose(tower(ids), expected, atol=1e-6)


@pytest.mark.parametrize(
    "vision",
    [
        {"pool_type": "avg"},
        {"pool_type": "avg", "final_ln_after_pool": True},
        {"no_ln_pre": True, "ls_init_value": 0.2},
        {"pos_embed_type": "sin_cos_2d"},
        {"qk_norm": True},
    ],
    ids=str,
)
def test_image_variants_of_other_checkpoints(vision: dict[str, Any], tmp_path: Path) -> None:
    import json

    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    config["text_cfg"]["layers"] = 1
    config["vision_cfg"] |= {"layers": 2, **vision}
    name = f"variant-{abs(hash(str(vision)))}"
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    source = load_source(name, "none", with_tokenizer=False)
    pixels = some_pixels(source)
    with torch.inference_mode():
        expected = eager_images(source, pixels)
        np.testing.assert_allclose(image_tower(source.model, source.preprocess)(pixels), expected, atol=1e-6)


@pytest.mark.parametrize("custom_text", [False, True])
def test_unknown_text_towers_are_traced_at_a_fixed_length(custom_text: bool, tmp_path: Path) -> None:
    """Blocks of an unknown kind, in a model that holds its text tower's parts itself and in one that has a tower."""
    import json

    import open_clip

    from exporter.towers.modules import text_is_fixed_length

    config = open_clip.get_model_config("ViT-B-32") | {"custom_text": custom_text}
    config["vision_cfg"]["layers"] = 1
    config["text_cfg"] |= {"layers": 2, "qk_norm": True}
    name = f"odd-text-{custom_text}"
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    source = load_source(name, "none", with_tokenizer=False)
    model: Any = source.model
    ids = some_ids(source, (3, 20, 77))
    with torch.inference_mode():
        expected = model.encode_text(ids.long(), normalize=True).numpy()
        image_tower(model, source.preprocess)
        model.visual = None
        tower = text_tower(model)
    assert text_is_fixed_length(tower)
    fixed = TextLength(keep="fixed", extra=0, min=77, max=77)
    graph = export_graph(tower, example_input(tower, (0, 0), 77), tmp_path / "text.onnx", fixed)
    assert graph.input.shape == ("N", 77)
    np.testing.assert_allclose(run(graph, ids.numpy()), expected, atol=2e-6)


def test_unknown_trunks_are_traced_as_they_are(tmp_path: Path) -> None:
    """A timm trunk of no known family still exports: as one unit."""
    import json

    import open_clip

    config = open_clip.get_model_config("convnext_base_w")
    config["vision_cfg"] |= {"timm_model_name": "resnet10t", "timm_pool": "avg", "image_size": 64}
    config["text_cfg"]["layers"] = 1
    (tmp_path / "odd-trunk.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "odd-trunk.json")
    source = load_source("odd-trunk", "none", with_tokenizer=False)
    pixels = some_pixels(source)
    with torch.inference_mode():
        expected = eager_images(source, pixels)
        tower = image_tower(source.model, source.preprocess)
    graph = export_graph(tower, example_input(tower, source.preprocess.size, 0), tmp_path / "image.onnx")
    np.testing.assert_allclose(run(graph, pixels.numpy()), expected, atol=2e-6)
