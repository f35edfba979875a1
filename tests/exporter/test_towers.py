"""exporter.towers: rebuilt towers give the model's own embeddings, and trace to clean graphs."""

from __future__ import annotations

import copy
import inspect
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from shallow import FAMILIES, SMALL_VOCABULARY
from shallow_towers import shallow_source, shallow_tower, tower_graph

from engines.manifest import TextLength
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.source.loading import Source, load_source
from exporter.towers.modules import ImageTower, TextTower, TowerModule, image_tower, text_tower
from exporter.towers.units import Whole

LENGTH = TextLength(keep="end", extra=0, min=2, max=77)
KINDS = ("image", "text")
# Towers whose graphs differ in more than numbers: of those that are left out, their modules are compared, and all graphs are slow.
GRAPHED = (
    ("ViT-B-32", "image"),
    ("ViT-B-32", "text"),
    ("RN50", "image"),
    ("convnext_large_d", "image"),
    ("EVA02-B-16", "image"),
    ("EVA02-E-14", "image"),
    ("coca_ViT-B-32", "image"),
    ("coca_ViT-B-32", "text"),
    ("roberta-ViT-B-32", "text"),
    ("ViT-B-16-SigLIP2", "image"),
    ("ViT-B-16-SigLIP2", "text"),
    ("MobileCLIP2-S0", "image"),
    ("MobileCLIP2-S3", "image"),
    ("PE-Core-T-16-384", "image"),
    ("nllb-clip-base", "text"),
)
MORE_GRAPHED = (
    ("ViT-B-32-quickgelu", "image"),
    ("EVA01-g-14", "image"),
    ("ViTamin-S", "image"),
    ("MobileCLIP-B", "image"),
)
# Attention blocks of the image tower, of the text tower.
ATTENTION = {
    "RN50": (1, 2),
    "RN50x4": (1, 2),
    "convnext_base_w": (0, 2),
    "convnext_large_d": (0, 2),
    "coca_ViT-B-32": (3, 2),
    "ViT-B-16-SigLIP2": (3, 2),
    "PE-Core-T-16-384": (3, 2),
    "MobileCLIP2-S3": (3, 2),
}
# Text towers without a causal mask and without a mask of the padding: an embedding depends on the padding, as in training.
SEES_PADDING = ("ViT-B-16-SigLIP2", "MobileCLIP2-S0", "MobileCLIP2-S3")
# Sums in float32 lose more digits in FastViT's convolutions, whose scale grows with depth; the gate's bound is 1e-5.
TOLERANCE = {"MobileCLIP2-S0": 8e-6, "MobileCLIP2-S3": 8e-6}


def some_pixels(source: Source, count: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    height, width = source.preprocess.size
    return torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8, generator=generator)


def some_ids(source: Source, lengths: tuple[int, ...]) -> torch.Tensor:
    """Rows of start, words, end, padding, as the model's tokenizer lays them out."""
    context = int(source.text_config.get("context_length", 77))
    generator = torch.Generator().manual_seed(2)
    bert = "hf_model_name" in source.text_config
    last = int(source.text_config.get("vocab_size", SMALL_VOCABULARY)) - 1
    start, end, pad, words = (0, 2, 1, (5, 900)) if bert else (last - 1, last, 0, (1, last - 100))
    rows = torch.full((len(lengths), context), pad, dtype=torch.int32)
    for row, length in zip(rows, lengths, strict=True):
        row[: min(length, context)] = torch.randint(
            *words, (min(length, context),), dtype=torch.int32, generator=generator
        )
        row[0], row[min(length, context) - 1] = start, end
    return rows


def eager_images(source: Source, pixels: torch.Tensor) -> np.ndarray:
    """Eager's embeddings in float64: FastViT's batch norms cost eager's own float32 more digits than the tests allow."""
    model: Any = copy.deepcopy(source.model).double()
    mean, std = torch.tensor(source.preprocess.mean).double(), torch.tensor(source.preprocess.std).double()
    normalized = ((pixels.double() / 255 - mean) / std).permute(0, 3, 1, 2)
    return model.encode_image(normalized, normalize=True).float().numpy()


@dataclass
class Case:
    """A tower, some inputs with eager's embeddings of them, and the tower's graph."""

    name: str
    kind: str  # image or text
    source: Source
    tower: TowerModule
    inputs: torch.Tensor
    eager: np.ndarray
    folder: Path

    @cached_property
    def graph(self) -> OnnxGraph:
        return tower_graph(self.tower, self.source, self.kind, self.folder)


def cases(narrow: Iterable[tuple[str, str]], more: Iterable[tuple[str, str]] = ()) -> pytest.MarkDecorator:
    """Narrow towers, and all of the true width, which are slow; `more` narrow ones are long."""
    params: list[Any] = [pytest.param((name, kind, True), id=f"{name}-{kind}") for name, kind in narrow]
    for name, kind in more:
        params.append(pytest.param((name, kind, True), marks=pytest.mark.long, id=f"{name}-{kind}"))
    for name, kind in product(FAMILIES, KINDS):
        params.append(pytest.param((name, kind, False), marks=pytest.mark.slow, id=f"{name}-{kind}-whole-width"))
    return pytest.mark.parametrize("case", params, indirect=True, scope="module")


@pytest.fixture(scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    name, kind, narrow = request.param
    source = shallow_source(name, narrow)
    model: Any = source.model
    with torch.inference_mode():
        if kind == "image":
            inputs = some_pixels(source)
            eager = eager_images(source, inputs)
        else:
            inputs = some_ids(source, (3, 9, 40, 77))
            eager = model.encode_text(inputs.long(), normalize=True).numpy()
    folder = tmp_path_factory.mktemp("family")
    yield Case(name, kind, source, shallow_tower(source, kind), inputs, eager, folder)
    shutil.rmtree(folder)  # all families together are 7 GB


def run(graph: OnnxGraph, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    return session.run([graph.output.name], {graph.input.name: inputs})[0]


@cases(product(FAMILIES, KINDS))
class TestModules:
    def test_is_rebuilt(self, case: Case) -> None:
        encoder = case.tower.encoder
        assert len(encoder.blocks) >= 2, "traced as it is: no family knew it"
        whole = any(isinstance(unit, Whole) for _, unit in encoder.units())
        assert not whole or "convnext" in case.name

    def test_modules_equal_eager(self, case: Case) -> None:
        with torch.inference_mode():
            np.testing.assert_allclose(case.tower(case.inputs), case.eager, atol=1e-6)


@cases(GRAPHED, MORE_GRAPHED)
class TestGraphs:
    def test_graphs_equal_eager(self, case: Case) -> None:
        tolerance = TOLERANCE.get(case.name, 2e-6)
        np.testing.assert_allclose(run(case.graph, case.inputs.numpy()), case.eager, atol=tolerance)

    def test_batch_is_dynamic(self, case: Case) -> None:
        tolerance = TOLERANCE.get(case.name, 2e-6)
        np.testing.assert_allclose(run(case.graph, case.inputs[:1].numpy()), case.eager[:1], atol=tolerance)

    def test_text_length_is_dynamic(self, case: Case) -> None:
        if case.kind == "text" and case.name not in SEES_PADDING:
            cut = case.inputs[:1, :4].numpy()  # three ids and, for CoCa, the one padding that takes part
            np.testing.assert_allclose(run(case.graph, cut), case.eager[:1], atol=2e-6)

    def test_signature(self, case: Case) -> None:
        height, width = case.source.preprocess.size
        expected = (
            ("pixels", "uint8", ("N", height, width, 3)) if case.kind == "image" else ("ids", "int32", ("N", "L"))
        )
        given, found = case.graph.input, case.graph.output
        assert (given.name, given.dtype, given.shape) == expected
        assert (found.name, found.shape) == (f"{case.kind}_embeds", ("N", case.source.info.embed_dim))

    def test_one_attention_node_per_block(self, case: Case) -> None:
        expected = dict(zip(KINDS, ATTENTION.get(case.name, (2, 2)), strict=True))
        assert case.graph.operators.get("Attention", 0) == expected[case.kind]

    def test_attention_blocks_have_at_most_six_shape_nodes(self, case: Case) -> None:
        for nodes in attention_neighbourhoods(case.graph):
            shapes = sum(nodes[kind] for kind in SHAPE_OPERATORS)
            # CoCa's pooling repeats a constant query for the batch (Shape, Concat, Expand); a rotation by halves splits
            # and joins them.
            assert shapes <= (7 if nodes["Expand"] else 8 if nodes["Neg"] else 6), nodes

    def test_causal_towers_say_so(self, case: Case) -> None:
        if case.kind == "image":
            return
        model = ir.load(case.graph.path)
        causal = [n.attributes["is_causal"].as_int() for n in model.graph if n.op_type == "Attention"]
        masks = [len(n.inputs) > 3 and n.inputs[3] is not None for n in model.graph if n.op_type == "Attention"]
        if any(part in case.name for part in ("roberta", "coca", "nllb")):
            assert all(masks)
        elif case.name in SEES_PADDING:
            assert causal == [0] * len(causal)
            assert not any(masks)
        else:
            assert causal == [1] * len(causal)
            assert not any(masks)

    def test_no_metadata_is_shipped(self, case: Case) -> None:
        model = ir.load(case.graph.path)
        assert not model.metadata_props
        for node in model.graph:
            assert not node.metadata_props
            assert not node.doc_string

    def test_weights_are_external_and_aligned(self, case: Case) -> None:
        # onnx-ir 1.0 aligns what is larger than a MiB, and cannot be told otherwise.
        aligned = 4096 if "alignment" in inspect.signature(ir.save).parameters else 1 << 20
        assert case.graph.path.stat().st_size < 400_000
        for value in ir.load(case.graph.path).graph.initializers.values():
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


def test_float32_input_takes_normalized_pixels(normalized_image_bundle: Path) -> None:
    source = load_source("demo", with_tokenizer=False)
    model: Any = source.model
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        expected = model.encode_image(x, normalize=True).numpy()
        tower = image_tower(model, source.preprocess, "float32")
        assert isinstance(tower, ImageTower)
        np.testing.assert_allclose(tower(x), expected, atol=1e-6)
    session = onnxruntime.InferenceSession(normalized_image_bundle / "image.onnx", providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    assert (given.type, given.shape) == ("tensor(float)", ["N", 3, 64, 64])
    np.testing.assert_allclose(session.run(None, {given.name: x.numpy()})[0], expected, atol=2e-6)


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
