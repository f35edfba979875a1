"""exporter.precision.precisions, probe and rounding: what overflows or loses accuracy is found and stays in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from shallow import SMALL_VOCABULARY, register

from exporter.graphs.onnx_graph import example_input, export_graph
from exporter.precision.precisions import PRECISIONS, PrecisionPlan, apply_plan
from exporter.precision.probe import probe
from exporter.precision.rounding import round_to, rounded
from exporter.source.loading import load_source
from exporter.towers.modules import ImageTower, TowerModule, image_tower, text_tower
from exporter.towers.units import PostNormResidual, Residual

HALF = ("fp16", "bf16")


def tower_of(
    architecture: str, folder: Path, name: str = "image", narrow: bool = False
) -> tuple[TowerModule, torch.Tensor]:
    """A float32 tower of three layers and random weights, and a batch for it."""
    registered = register(architecture, folder, 3, 3, narrow, SMALL_VOCABULARY)
    source = load_source(registered, "none", with_tokenizer=False)
    generator = torch.Generator().manual_seed(3)
    if name == "text":
        ids = torch.randint(5, 900, (4, 12), dtype=torch.int32, generator=generator)
        return text_tower(source.model), ids
    height, width = source.preprocess.size
    pixels = torch.randint(0, 256, (4, height, width, 3), dtype=torch.uint8, generator=generator)
    return image_tower(source.model, source.preprocess), pixels


def embed(tower: TowerModule, batch: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return tower(batch).numpy()


def scale_stream(tower: ImageTower, factor: float) -> None:
    """Make the residual stream `factor` times larger without changing the tower's function.

    Every writer to the stream is scaled up; the pre-norms that read it are blind to scale (but for their epsilon).
    """
    with torch.no_grad():
        stem: Any = tower.encoder.stem
        stem.norm.weight.mul_(factor)
        stem.norm.bias.mul_(factor)
        for name, unit in tower.encoder.units():
            if isinstance(unit, Residual):
                last: Any = unit.body.out if name.endswith("attention") else unit.body[-1]
                last.weight.mul_(factor)
                last.bias.mul_(factor)


def grow_hidden(tower: ImageTower, block: int, factor: float) -> None:
    """Make one MLP's hidden activations `factor` times larger, function-preserving (its activation is made linear-free)."""
    mlp: Any = tower.encoder.blocks[block].mlp.body  # type: ignore[union-attr]
    with torch.no_grad():
        mlp.gelu = torch.nn.ReLU()
        mlp.c_fc.weight.mul_(factor)
        mlp.c_fc.bias.mul_(factor)
        mlp.c_proj.weight.div_(factor)


class TestRounding:
    @pytest.mark.parametrize("name", ["image", "text"])
    @pytest.mark.parametrize("precision", HALF)
    @pytest.mark.parametrize("architecture", ["ViT-B-32", "EVA02-B-16", "coca_ViT-B-32", "roberta-ViT-B-32", "RN50"])
    def test_simulation_matches_converted_module(
        self, architecture: str, precision: str, name: str, tmp_path: Path
    ) -> None:
        """What the simulation predicts is what the converted module computes, to the dtype's own noise."""
        if name == "text" and architecture in ("EVA02-B-16", "RN50"):
            pytest.skip("its text tower is ViT-B-32's")
        tower, batch = tower_of(architecture, tmp_path, name, narrow=True)
        exact = embed(tower, batch)
        dtype = PRECISIONS[precision].dtype
        names = [unit for unit, _ in tower.encoder.units()]
        plan = PrecisionPlan(dtype, dtype, {names[1]: "a test"})
        with rounded(tower, plan):
            simulated = embed(tower, batch)
        np.testing.assert_array_equal(embed(tower, batch), exact)  # the tower is as it was
        apply_plan(tower, plan)
        real = embed(tower, batch)
        cost = np.abs(simulated - exact).max()
        assert cost > 0
        assert np.abs(real - exact).max() < 3 * cost + 1e-6
        assert np.abs(real - simulated).max() < 3 * cost + 1e-6

    def test_infinity_is_not_hidden(self) -> None:
        assert torch.isinf(round_to(torch.tensor([1e5]), torch.float16)).all()
        assert round_to((torch.tensor([1e5]), None, torch.tensor([3])), torch.bfloat16)[2].dtype == torch.int64


class TestProbe:
    @pytest.mark.parametrize("precision", HALF)
    def test_healthy_tower_keeps_nothing(self, precision: str, tmp_path: Path) -> None:
        tower, batch = tower_of("ViT-B-32", tmp_path)
        found = probe(tower, [batch], embed(tower, batch), PRECISIONS[precision])
        assert not found.plan.fp32_units
        assert found.plan.stream == PRECISIONS[precision].dtype
        assert found.simulated.min_cosine > PRECISIONS[precision].limits.min_cosine

    def test_overflowing_stream_stays_in_float32(self, tmp_path: Path) -> None:
        tower, batch = tower_of("ViT-B-32", tmp_path)
        assert isinstance(tower, ImageTower)
        scale_stream(tower, 3e4)
        exact = embed(tower, batch)
        naive = PrecisionPlan(torch.float16, torch.float16)
        with rounded(tower, naive):
            assert not np.isfinite(embed(tower, batch)).all()
        found = probe(tower, [batch], exact, PRECISIONS["fp16"])
        assert found.plan.stream == torch.float32
        assert "reaches" in found.plan.fp32_units["stream"]
        apply_plan(tower, found.plan)
        graph = export_graph(tower, example_input(tower, (224, 224), 0), tmp_path / "image.onnx")
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        session = onnxruntime.InferenceSession(str(graph.path), options)
        got = session.run(None, {"pixels": batch.numpy()})[0]
        assert (got * exact).sum(axis=1).min() > PRECISIONS["fp16"].limits.min_cosine
        assert (embed(tower, batch) * exact).sum(axis=1).min() > PRECISIONS["fp16"].limits.min_cosine

    def test_only_the_overflowing_unit_stays_in_float32(self, tmp_path: Path) -> None:
        tower, batch = tower_of("ViT-B-32", tmp_path)
        assert isinstance(tower, ImageTower)
        grow_hidden(tower, 1, 1e5)
        exact = embed(tower, batch)
        found = probe(tower, [batch], exact, PRECISIONS["fp16"])
        assert set(found.plan.fp32_units) == {"blocks.1.mlp"}
        assert "activations reach" in found.plan.fp32_units["blocks.1.mlp"]
        apply_plan(tower, found.plan)
        assert (embed(tower, batch) * exact).sum(axis=1).min() > 0.9999
        graph = export_graph(tower, example_input(tower, (224, 224), 0), tmp_path / "image.onnx")
        weights = {
            value.const_value.dtype
            for value in ir.load(graph.path).graph.initializers.values()
            if value.const_value is not None and value.const_value.size > 100_000
        }
        assert weights == {ir.DataType.FLOAT, ir.DataType.FLOAT16}

    def test_large_query_key_products_are_seen(self, tmp_path: Path) -> None:
        """Scores that overflow float16 are found although the attention is one operator."""
        tower, batch = tower_of("ViT-B-32", tmp_path)
        attention: Any = tower.encoder.blocks[0].attention.body  # type: ignore[union-attr]
        with torch.no_grad():
            attention.qkv.weight[: 2 * 768].mul_(300)
        found = probe(tower, [batch], embed(tower, batch), PRECISIONS["fp16"])
        assert "blocks.0.attention" in found.plan.fp32_units

    def test_post_norm_blocks(self, tmp_path: Path) -> None:
        tower, batch = tower_of("roberta-ViT-B-32", tmp_path, "text")
        assert any(isinstance(unit, PostNormResidual) for _, unit in tower.encoder.units())
        exact = embed(tower, batch)
        apply_plan(tower, PrecisionPlan(torch.float16, torch.float32, {"blocks.0.attention": "a test"}))
        assert (embed(tower, batch) * exact).sum(axis=1).min() > 0.9999

    def test_no_nan_passes_silently(self, tmp_path: Path) -> None:
        """A tower that cannot be saved gives a failing row, not NaN."""
        tower, batch = tower_of("ViT-B-32", tmp_path)
        exact = embed(tower, batch)
        with torch.no_grad():
            tower.encoder.head.norm.weight.fill_(float("nan"))  # type: ignore[union-attr]
        found = probe(tower, [batch], exact, PRECISIONS["fp16"])
        assert not found.simulated.min_cosine >= PRECISIONS["fp16"].limits.min_cosine


def test_graphs_are_strongly_typed(tmp_path: Path) -> None:
    """Half graphs carry no float32 but where the tower asks for it: input normalization and the final L2 norm."""
    tower, _ = tower_of("ViT-B-32", tmp_path)
    apply_plan(tower, PrecisionPlan(torch.float16, torch.float16))
    graph = export_graph(tower, example_input(tower, (224, 224), 0), tmp_path / "image.onnx")
    for value in ir.load(graph.path).graph.initializers.values():
        assert value.const_value is not None
        if value.const_value.size > 16:
            assert value.const_value.dtype == ir.DataType.FLOAT16, value.name
    assert graph.operators["Cast"] <= 3
