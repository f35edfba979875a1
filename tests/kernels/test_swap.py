"""Whole towers of every family with fused modules in the place of native ones: the same answers, and how many were swapped.

On a CPU the fused modules run the ops' references, so this is a test of the modules; the kernels have their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from shallow import register
from torch import nn

from kernels import choices
from kernels.swap import UnknownBlockError, swap

# Family → what is swapped in its image tower and in its text tower. Two blocks each; the last image block's attention asks for the
# first token only where the tower pools that token.
EXPECTED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "ViT-B-32": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3},
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3},
    ),
    "ViT-B-32-quickgelu": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3},
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3},
    ),
    "RN50": ({}, {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3}),
    "convnext_base_w": ({"linear_gelu": 5}, {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3}),
    "EVA02-B-16": (
        {"attention": 1, "add_layer_norm": 3},
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3},
    ),
    "EVA02-E-14": (
        {"attention": 1, "linear_gelu": 2},  # post-norms: no add is followed by a norm
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3},
    ),
    "coca_ViT-B-32": (
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3},
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3},
    ),
    "roberta-ViT-B-32": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3},
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 4},
    ),
}


@pytest.fixture(scope="module", params=sorted(EXPECTED))
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any, Any]:
    """A shallow model's name, its towers, and the size of its images."""
    from exporter.source import load_source
    from exporter.towers import image_tower, text_tower

    name = register(request.param, tmp_path_factory.mktemp("shallow"))
    source = load_source(name, "none", with_tokenizer=False)
    return request.param, image_tower(source.model, source.preprocess), text_tower(source.model), source.preprocess.size


def some_ids() -> torch.Tensor:
    """Two captions of 5 and 9 ids and their padding, in the vocabulary of every family."""
    ids = torch.zeros(2, 16, dtype=torch.int32)
    ids[0, :5], ids[1, :9] = torch.arange(900, 905), torch.arange(700, 709)
    return ids


def test_swapped_towers_give_the_same(towers: tuple[str, Any, Any, Any]) -> None:
    name, image, text, (height, width) = towers
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for tower, inputs, expected in ((image, pixels, EXPECTED[name][0]), (text, some_ids(), EXPECTED[name][1])):
        with torch.inference_mode():
            before = tower(inputs)
            report = swap(tower, "fp32", "triton")
            after = tower(inputs)
        assert dict(report.swapped) == expected
        assert (before * after).sum(dim=1).min() > 0.99999
        torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


def demo_image_tower() -> Any:
    from exporter.source import load_source
    from exporter.towers import image_tower

    source = load_source("demo", with_tokenizer=False)
    return image_tower(source.model, source.preprocess)


def test_auto_takes_what_the_table_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tower = demo_image_tower()
    assert not swap(tower, "fp32", "auto").swapped  # nothing has won on a CPU
    attend = tower.encoder.blocks[0].attention.body
    table = tmp_path / "choices.csv"
    table.write_text(choices.TABLE.read_text().splitlines()[0] + "\n")
    shape = choices.shape_text((8, 17, attend.heads, attend.head_dim))
    choices.merge([choices.Row("sm90", "attention", "float32", shape, 0.5, 1.0, "a GPU", "abc")], table)
    monkeypatch.setattr("kernels.swap.choose", lambda *args: choices.choose(*args, table=table))
    report = swap(tower, "fp32", "auto", arch="sm90")
    assert set(report.swapped) == {"attention"}
    assert report.kept["MLP"] == len(tower.encoder.blocks)
    assert not swap(demo_image_tower(), "fp32", "auto", arch="sm80").swapped


def test_native_changes_nothing() -> None:
    tower = demo_image_tower()
    kinds = [type(module) for module in tower.modules()]
    assert not swap(tower, "fp32", "native").swapped
    assert [type(module) for module in tower.modules()] == kinds


class Strange(nn.Module):
    """A block of no known kind."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_an_unknown_block_is_refused_and_nothing_is_swapped() -> None:
    tower = demo_image_tower()
    tower.encoder.blocks.append(Strange())
    kinds = [type(module) for module in tower.modules()]
    with pytest.raises(UnknownBlockError, match="Strange: use native kernels"):
        swap(tower, "fp32", "triton")
    assert [type(module) for module in tower.modules()] == kinds
    tower = demo_image_tower()
    tower.encoder.blocks[-1].mlp.body = Strange()
    with pytest.raises(UnknownBlockError, match="Strange"):
        swap(tower, "fp32", "triton")
    with pytest.raises(UnknownBlockError, match="is no tower"):
        swap(nn.Linear(2, 2), "fp32", "triton")
    with pytest.raises(ValueError, match="is none of auto, triton, native"):
        swap(tower, "fp32", "fast")  # type: ignore[arg-type]


def test_names_of_known_classes_exist() -> None:
    """Blocks are known by name: a class that was renamed or moved must not become an unknown one silently."""
    import importlib

    from kernels import swap as module

    names = [value for name, value in vars(module).items() if name.startswith("_") and isinstance(value, str)]
    names += [*module._NATIVE_MLPS, *module._GELUS]
    names = [name for name in names if name.startswith(("exporter.", "timm.", "open_clip.", "torch."))]
    assert len(names) > 8
    for name in names:
        home, _, kind = name.rpartition(".")
        assert getattr(importlib.import_module(home), kind).__module__ == home
