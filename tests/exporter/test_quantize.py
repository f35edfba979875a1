"""The quantization recipe on whole towers: outliers that plain int8 does not survive, and what the search does about the rest."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from torch import nn
from tower_copies import tower_copy

from engines.inputs.preprocess import preprocess_image
from engines.manifest import TowerParity
from engines.verification.embeddings import compare_embeddings, within
from exporter.errors import ExportError
from exporter.precision.precisions import PRECISIONS
from exporter.precision.probe import meets
from exporter.quantization.layers import QuantizedConvolution, QuantizedLayer, QuantizedPatches
from exporter.quantization.recipe import Batches, Quantized, quantize_tower
from exporter.quantization.smoothing import find_folds, fold
from exporter.reference.parity_data import load_parity_data
from exporter.towers.modules import TowerModule

INT8 = PRECISIONS["int8"]
SAMPLES = 8


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_tower(architecture: str, kind: str) -> tuple[TowerModule, torch.Tensor]:
    """A shallow tower with random weights, and natural inputs of it."""
    tower, preprocess = tower_copy(architecture, kind)
    if kind == "image":
        images = load_parity_data(None, images=SAMPLES, captions=1).images
        return tower, torch.from_numpy(np.stack([preprocess_image(image, preprocess) for image in images]))
    captions = list(load_parity_data(None, images=1, captions=SAMPLES).captions)
    ids = open_clip.get_tokenizer("ViT-B-32")(captions).to(torch.int32)
    return tower, ids[:, : int((ids != 0).sum(dim=1).max())]


def in_batches(inputs: torch.Tensor) -> Batches:
    def batches(count: int | None) -> Iterator[torch.Tensor]:
        most = len(inputs) if count is None else min(count, len(inputs))
        for start in range(0, most, 4):
            yield inputs[start : min(start + 4, most)]

    return batches


def embed(tower: TowerModule, inputs: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return torch.cat([tower(batch) for batch in in_batches(inputs)(None)]).numpy()


def plain(tower: TowerModule, inputs: torch.Tensor) -> Quantized:
    """int8 as simple tools do it: the largest value seen is the range, nothing is smoothed, nothing is left out."""
    return quantize_tower(tower, in_batches(inputs), torch.int8, lambda _: True, smooth=False, only_max=True)


def ours(tower: TowerModule, inputs: torch.Tensor, dtype: torch.dtype = torch.int8) -> Quantized:
    return quantize_tower(tower, in_batches(inputs), dtype, lambda parity: meets(parity, INT8))


def add_outlier_channels(tower: TowerModule, factor: float) -> None:
    """Scale a few channels of every norm and every value projection up, and the next layer's columns down: the same function."""
    generator = torch.Generator().manual_seed(0)
    for where in find_folds(tower):
        width = where.consumers[0].in_features
        factors = torch.ones(width)
        factors[torch.randperm(width, generator=generator)[:3]] = 1.0 / factor
        fold(where, factors)


def first_mlp(tower: TowerModule) -> Any:
    block: Any = tower.encoder.blocks[0]
    return block.mlp.body


def add_massive_token(tower: TowerModule, inputs: torch.Tensor, value: float) -> None:
    """One hidden unit of the first MLP answers to the first token alone, with `value`, and what it gives matters."""
    mlp = first_mlp(tower)
    seen: list[torch.Tensor] = []
    hook = mlp.c_fc.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.inference_mode():
        tower(inputs[:4])
    hook.remove()
    first, others = seen[0][:, 0].mean(dim=0), seen[0][:, 1:].flatten(0, 1)
    direction = first - others.mean(dim=0)
    nearest, itself = float((others @ direction).max()), float(first @ direction)
    assert itself > nearest
    gain = value / (itself - nearest)
    mlp.c_fc.weight.data[0] = direction * gain
    mlp.c_fc.bias.data[0] = -nearest * gain
    generator = torch.Generator().manual_seed(0)
    column = torch.randn(mlp.c_proj.out_features, generator=generator)
    mlp.c_proj.weight.data[:, 0] = column * float(mlp.c_proj.weight[:, 1:].norm(dim=0).mean()) / column.norm() / 20


@pytest.mark.parametrize(
    ("architecture", "kind"),
    [
        ("ViT-S-32", "image"),
        ("ViT-S-32", "text"),
        pytest.param("EVA02-B-16", "image", marks=pytest.mark.long),
        # As ViT-S-32, and twice as wide.
        pytest.param("ViT-B-32", "image", marks=pytest.mark.slow),
        pytest.param("ViT-B-32", "text", marks=pytest.mark.slow),
    ],
)
def test_outlier_channels(architecture: str, kind: str) -> None:
    found = {}
    for recipe in (plain, ours):
        tower, inputs = make_tower(architecture, kind)
        before = embed(tower, inputs)
        add_outlier_channels(tower, 100.0)
        same = compare_embeddings(before, embed(tower, inputs))
        assert same.min_cosine > 0.9999, "outliers must not change the function"
        quantized = recipe(tower, inputs)
        found[recipe.__name__] = compare_embeddings(before, embed(tower, inputs))
        assert not quantized.kept, "nothing may be left out: smoothing has to do it"
        assert quantized.share > 0.95
    assert not within(found["plain"], INT8.limits), found
    assert within(found["ours"], INT8.limits), found


@pytest.mark.parametrize("kind", ["image", "text"])
def test_a_massive_token_costs_its_own_layer_only(kind: str) -> None:
    found, kept = {}, {}
    for recipe in (plain, ours):
        tower, inputs = make_tower("ViT-S-32", kind)
        add_massive_token(tower, inputs, 3000.0)
        before = embed(tower, inputs)
        kept[recipe.__name__] = recipe(tower, inputs).kept
        found[recipe.__name__] = compare_embeddings(before, embed(tower, inputs))
    assert not within(found["plain"], INT8.limits), found
    assert within(found["ours"], INT8.limits), found
    assert set(kept["ours"]) <= {"blocks.0.mlp.body.c_proj"}, kept


def test_layers_that_hurt_go_back_fewest_first() -> None:
    """With limits that only a nearly exact tower meets, more layers are kept; without any that it can meet, all."""
    counts = []
    for least in (0.9, 0.99995, 2.0):
        tower, inputs = make_tower("ViT-S-32", "text")

        def good(parity: TowerParity, least: float = least) -> bool:
            return parity.mean_cosine >= least

        found = quantize_tower(tower, in_batches(inputs), torch.int8, good)
        assert len(found.kept) + len(found.scales) == len(found.sites)
        for site in found.sites:
            assert isinstance(site.layer, QuantizedLayer) == (site.name in found.scales)
        counts.append(len(found.kept))
    assert counts[0] == 0 < counts[1] < counts[2] == len(found.sites)
    assert found.share == 0.0


def test_the_same_data_gives_the_same_scales() -> None:
    scales = []
    for _ in range(2):
        tower, inputs = make_tower("ViT-S-32", "image")
        found = ours(tower, inputs)
        scales.append([layer.input_scale.numpy().tobytes() + layer.weight.numpy().tobytes() for layer in found.layers])
    assert scales[0] == scales[1]


@pytest.mark.parametrize(
    ("architecture", "convolutions", "patches"),
    [
        ("RN50", 15, 0),
        pytest.param("convnext_base_w", 0, 4, marks=pytest.mark.slow),
        pytest.param("coca_ViT-B-32", 0, 1, marks=pytest.mark.long),
    ],
)
def test_other_families(architecture: str, convolutions: int, patches: int) -> None:
    tower, inputs = make_tower(architecture, "image")
    before = embed(tower, inputs)
    found = ours(tower, inputs)
    kinds = [type(layer) for layer in found.layers]
    assert kinds.count(QuantizedConvolution) >= convolutions
    assert kinds.count(QuantizedPatches) == patches
    assert found.share > 0.9
    assert within(compare_embeddings(before, embed(tower, inputs)), INT8.limits)


def test_fp8_of_a_tower() -> None:
    tower, inputs = make_tower("ViT-S-32", "image")
    before = embed(tower, inputs)
    found = ours(tower, inputs, torch.float8_e4m3fn)
    assert not found.kept
    assert {layer.weight.dtype for layer in found.layers} == {torch.float8_e4m3fn}
    assert within(compare_embeddings(before, embed(tower, inputs)), PRECISIONS["fp8"].limits)


def test_converting_a_tower_keeps_quantized_weights() -> None:
    tower, inputs = make_tower("ViT-S-32", "image")
    found = ours(tower, inputs, torch.float8_e4m3fn)
    found.settle()
    before = [(layer.weight.clone(), layer.input_scale.clone()) for layer in found.layers]
    tower.half()
    for layer, (weight, scale) in zip(found.layers, before, strict=True):
        assert layer.weight.dtype == layer.zero_point.dtype == torch.float8_e4m3fn
        assert torch.equal(layer.weight.view(torch.uint8), weight.view(torch.uint8))
        assert layer.input_scale.dtype == torch.float16
        assert torch.equal(layer.input_scale.float(), scale), "scales are exact in float16"


def test_weights_that_are_not_finite_are_an_error() -> None:
    tower, inputs = make_tower("ViT-S-32", "image")
    first_mlp(tower).c_fc.weight.data[3, 3] = float("nan")
    with pytest.raises(ExportError, match="infinite or not a number"):
        ours(tower, inputs)


def test_a_tower_of_no_known_family_is_refused() -> None:
    from exporter.towers.units import ImageEncoder, Whole

    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=(2, 3))

    tower = TowerModule(ImageEncoder(nn.Identity(), [], Whole(Strange())))
    with pytest.raises(ExportError, match="no known family"):
        quantize_tower(tower, in_batches(torch.zeros(8, 3, 4, 4)), torch.int8, lambda _: True)
