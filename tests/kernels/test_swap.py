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
TEXT = {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3, "l2_normalize": 1}
EXPECTED: dict[str, tuple[dict[str, int], dict[str, int]]] = {
    "ViT-B-32": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "ViT-B-32-quickgelu": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "RN50": ({"l2_normalize": 1}, TEXT),
    "convnext_base_w": ({"linear_gelu": 5, "l2_normalize": 1}, TEXT),
    "EVA02-B-16": (
        {"attention": 1, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "EVA02-E-14": (
        # post-norms: no add is followed by a norm
        {"attention": 1, "linear_gelu": 2, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "coca_ViT-B-32": (
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "roberta-ViT-B-32": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT | {"add_layer_norm": 4},
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


def assert_exports(tower: Any, inputs: torch.Tensor, expected: torch.Tensor) -> None:
    """As AOTInductor's programs are traced: with every batch from one on, and texts with their length."""
    from torch.fx.experimental import _config

    dynamic: dict[int, Any] = {0: torch.export.Dim("N", min=1)}
    if inputs.dim() == 2:
        dynamic[1] = torch.export.Dim("L", min=2, max=16)
    with torch.no_grad(), _config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        program = torch.export.export(tower, (inputs,), dynamic_shapes=(dynamic,), strict=False)
    with torch.no_grad():
        torch.testing.assert_close(program.module(check_guards=False)(inputs[:1]), expected[:1], atol=2e-5, rtol=0)


def test_swapped_towers_give_the_same(towers: tuple[str, Any, Any, Any]) -> None:
    name, image, text, (height, width) = towers
    pixels = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for tower, inputs, expected in ((image, pixels, EXPECTED[name][0]), (text, some_ids(), EXPECTED[name][1])):
        with torch.inference_mode():
            before = tower(inputs)
            report = swap(tower, "fp32", "triton")
            after = tower(inputs)
        assert dict(report.swapped) == expected
        assert_exports(tower, inputs, after)
        assert (before * after).sum(dim=1).min() > 0.99999
        torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


def demo_image_tower() -> Any:
    from exporter.source import load_source
    from exporter.towers import image_tower

    source = load_source("demo", with_tokenizer=False)
    return image_tower(source.model, source.preprocess)


def patch_side(tower: Any) -> int:
    """Side of a patch in pixels."""
    side: int = tower.encoder.stem.patches.kernel_size[0]
    return side


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
    assert report.kept["patches"] == report.kept["unit length"] == 1
    assert not swap(demo_image_tower(), "fp32", "auto", arch="sm80").swapped
    choices.merge([choices.Row("sm90", "l2_normalize", "float32", "256x768", 0.5, 1.0, "a GPU", "abc")], table)
    size = choices.shape_text((256, *tower.normalize.size, patch_side(tower)))
    choices.merge([choices.Row("sm90", "normalize_image", "float32", size, 0.5, 1.0, "a GPU", "abc")], table)
    report = swap(demo_image_tower(), "fp32", "auto", arch="sm90")
    assert set(report.swapped) == {"attention", "normalize_image", "l2_normalize"}


def test_native_changes_nothing() -> None:
    tower = demo_image_tower()
    kinds = [type(module) for module in tower.modules()]
    assert not swap(tower, "fp32", "native").swapped
    assert [type(module) for module in tower.modules()] == kinds


def test_what_a_convolutional_tower_keeps_is_listed(tmp_path: Path) -> None:
    from exporter.source import load_source
    from exporter.towers import image_tower

    kept = {}
    for family in ("RN50", "convnext_base_w"):
        source = load_source(register(family, tmp_path), "none", with_tokenizer=False)
        kept[family] = dict(swap(image_tower(source.model, source.preprocess), "fp32", "triton").kept)
    assert kept["RN50"] == {"convolutions": 5, "stem of convolutions": 1}
    assert kept["convnext_base_w"] == {
        "convolutions": 3,
        "layer norm after a convolution": 5,
        "stem of convolutions": 1,
    }


def test_float32_pixels_are_normalized_already() -> None:
    from exporter.source import load_source
    from exporter.towers import image_tower

    source = load_source("demo", with_tokenizer=False)
    tower = image_tower(source.model, source.preprocess, "float32")
    pixels = torch.randn(2, 3, *source.preprocess.size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before = tower(pixels)
        report = swap(tower, "fp32", "triton")
        after = tower(pixels)
    assert "normalize_image" not in report.swapped
    assert report.kept["patches of float32 pixels"] == 1
    assert report.swapped["l2_normalize"] == 1
    torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


@pytest.mark.parametrize("change", [{"stride": 4}, {"padding": 2}], ids=str)
def test_a_stem_whose_windows_overlap_stays(change: dict[str, int]) -> None:
    tower = demo_image_tower()
    patches = tower.encoder.stem.patches
    size = patches.kernel_size[0]
    tower.encoder.stem.patches = nn.Conv2d(3, patches.out_channels, size, **({"stride": size} | change))
    report = swap(tower, "fp32", "triton")
    assert "normalize_image" not in report.swapped
    assert report.kept["patches of another convolution"] == 1
    assert isinstance(tower.encoder.stem.patches, nn.Conv2d)


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
    from kernels import swap_ends

    known = [*vars(module).items(), *vars(swap_ends).items()]
    names = [value for name, value in known if name.startswith("_") and isinstance(value, str)]
    names += [*module._NATIVE_MLPS, *module._GELUS, *swap_ends._PATCH_STEMS, *swap_ends._CONVOLUTION_STEMS]
    names = [name for name in names if name.startswith(("exporter.", "timm.", "open_clip.", "torch."))]
    assert len(names) > 14
    for name in names:
        home, _, kind = name.rpartition(".")
        assert getattr(importlib.import_module(home), kind).__module__ == home
