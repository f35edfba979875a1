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
from kernels.blocks import FusedMlp, FusedSelfAttention
from kernels.swap import Mode, UnknownBlockError, swap

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
    "ViT-B-16-SigLIP2": (
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "MobileCLIP-B": ({"attention": 1, "linear_gelu": 2, "add_layer_norm": 3, "l2_normalize": 1}, TEXT),
    "MobileCLIP2-S0": ({"l2_normalize": 1}, TEXT),
    "PE-Core-T-16-384": (
        {"attention": 2, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        TEXT,
    ),
    "ViTamin-S": ({"attention": 2, "add_layer_norm": 3, "l2_normalize": 1}, TEXT),  # its MLPs are gated
    "nllb-clip-base": (
        {"attention": 1, "linear_gelu": 2, "add_layer_norm": 3, "normalize_image": 1, "l2_normalize": 1},
        {"attention": 2, "add_layer_norm": 3, "l2_normalize": 1},  # its MLPs have ReLU
    ),
}


# Families whose text tower is not that of "ViT-B-32" with the same layers.
OWN_TEXT = ("ViT-B-32-quickgelu", "coca_ViT-B-32", "roberta-ViT-B-32", "ViT-B-16-SigLIP2", "nllb-clip-base")
# "ViT-B-32" is as its neighbour with QuickGELU, and the demo model below has plain GELU.
PARAMS = [pytest.param(family, marks=pytest.mark.slow if family == "ViT-B-32" else ()) for family in sorted(EXPECTED)]


@pytest.fixture(scope="module", params=PARAMS)
def towers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Any, Any, Any]:
    """A shallow model's name, its towers, and the size of its images."""
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower, text_tower

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
        if tower is image or name in (*OWN_TEXT, "ViT-B-32"):
            assert_exports(tower, inputs, after)
        assert (before * after).sum(dim=1).min() > 0.99999
        torch.testing.assert_close(after, before, atol=2e-5, rtol=0)


def demo_image_tower() -> Any:
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower

    source = load_source("demo", with_tokenizer=False)
    return image_tower(source.model, source.preprocess)


def patch_side(tower: Any) -> int:
    """Side of a patch in pixels."""
    side: int = tower.encoder.stem.patches.kernel_size[0]
    return side


def measured(op: str, shape: tuple[int, ...], dtype: str = "float32", **times: float) -> list[choices.Row]:
    """Rows of the table: ``measured("attention", (8, 17, 4, 32), native=1.0, triton=0.5)``; a space in a name is written __."""
    text = choices.shape_text(shape)
    return [
        choices.Row("sm90", op, dtype, text, name.replace("__", " "), ms, "a GPU", "abc") for name, ms in times.items()
    ]


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table without rows, which `swap` reads."""
    path = tmp_path / "choices.csv"
    path.write_text(choices.TABLE.read_text().splitlines()[0] + "\n")
    monkeypatch.setattr("kernels.swap.choose", lambda *args: choices.choose(*args, table=path))
    return path


def test_auto_takes_what_the_table_says(table: Path) -> None:
    tower = demo_image_tower()
    assert not swap(tower, "fp32", "auto").swapped  # nothing has won on a CPU
    attend, length = tower.encoder.blocks[0].attention.body, tower.encoder.stem.length
    shape = (8, length, attend.heads, attend.head_dim)
    choices.merge(measured("attention", shape, triton=0.5, native=1.0), table)
    report = swap(tower, "fp32", "auto", arch="sm90", rows=8)
    assert set(report.swapped) == {"attention"}
    assert report.kept["MLP"] == len(tower.encoder.blocks)
    assert report.kept["patches"] == report.kept["unit length"] == 1
    for arch, rows in (("sm80", 8), ("sm90", 128)):  # another GPU; a batch that nothing was measured near to
        assert not swap(demo_image_tower(), "fp32", "auto", arch=arch, rows=rows).swapped
    stem = tower.encoder.stem
    size = (256, *tower.normalize.size, patch_side(tower), int(stem.patches.out_channels))
    choices.merge(measured("l2_normalize", (256, 768), triton=0.5, native=1.0), table)
    choices.merge(measured("patches", size, normalize_image=0.5, native=1.0), table)
    report = swap(demo_image_tower(), "fp32", "auto", arch="sm90")
    assert set(report.swapped) == {"attention", "normalize_image", "l2_normalize"}


def test_auto_takes_the_variant_that_won(table: Path) -> None:
    """Of attention and of where GELU goes: the report names it, the module runs it, and a batch decides."""
    tower = demo_image_tower()
    attend, length = tower.encoder.blocks[0].attention.body, tower.encoder.stem.length
    first = tower.encoder.blocks[0].mlp.body.c_fc
    shape = (8, length, attend.heads, attend.head_dim)
    choices.merge(measured("attention", shape, "float16", triton=0.5, cudnn=0.4, native=1.0), table)
    product = (8 * length, int(first.in_features), int(first.out_features))
    choices.merge(
        measured("mlp", product, "float16", linear_gelu=0.5, linear_gelu__cublaslt=0.4, bias_gelu=0.6, native=1.0),
        table,
    )
    report = swap(tower, "fp16", "auto", arch="sm90", rows=8)
    blocks = len(demo_image_tower().encoder.blocks)
    assert report.swapped == {"attention cudnn": blocks - 1, "linear_gelu cublaslt": blocks}
    assert {m.variant for m in tower.modules() if isinstance(m, FusedSelfAttention)} == {"cudnn"}
    assert {(m.variant, m.approximate) for m in tower.modules() if isinstance(m, FusedMlp)} == {("cublaslt", "tanh")}
    # float32 has neither: the table of that dtype is another one, and vendors' kernels are of half precision.
    choices.merge(measured("attention", shape, "float32", triton=0.5, cudnn=0.4, native=1.0), table)
    assert swap(demo_image_tower(), "fp32", "auto", arch="sm90", rows=8).swapped == {"attention": blocks - 1}


def test_tiles_chosen_by_a_length_are_not_for_captions_of_any_length(table: Path) -> None:
    from exporter.source.loading import load_source
    from exporter.towers.modules import text_tower

    def swapped(mode: Mode) -> dict[str, int]:
        tower = text_tower(load_source("demo", with_tokenizer=False).model)
        return dict(swap(tower, "fp16", mode, arch="sm90", rows=32).swapped)

    body = text_tower(load_source("demo", with_tokenizer=False).model).encoder.blocks[0].attention.body
    shape = (32, 77, body.heads, body.head_dim)
    times = {"triton": 0.1, "loop-64x64-w4-s2": 0.5, "native": 1.0}
    choices.merge(measured("causal_attention", shape, "float16", **times), table)
    assert swapped("auto") == {"attention loop-64x64-w4-s2": 2}
    assert swapped("triton")["attention"] == 2


def test_quick_gelu_has_rows_of_its_own(table: Path, tmp_path: Path) -> None:
    """The vendor's epilogue has no QuickGELU, and another form of GELU takes another time."""
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower

    for op in ("mlp", "quick_mlp"):
        choices.merge(
            measured(op, (64, 768, 3072), "float16", linear_gelu__cublaslt=0.1, bias_gelu=0.5, native=1.0), table
        )
    found = {}
    for family in ("ViT-B-32", "ViT-B-32-quickgelu"):
        source = load_source(register(family, tmp_path), "none", with_tokenizer=False)
        tower = image_tower(source.model, source.preprocess)
        found[family] = set(swap(tower, "fp16", "auto", arch="sm90").swapped)
    assert found == {"ViT-B-32": {"linear_gelu cublaslt"}, "ViT-B-32-quickgelu": {"bias_gelu"}}


def test_native_changes_nothing() -> None:
    tower = demo_image_tower()
    kinds = [type(module) for module in tower.modules()]
    assert not swap(tower, "fp32", "native").swapped
    assert [type(module) for module in tower.modules()] == kinds


def test_what_a_convolutional_tower_keeps_is_listed(tmp_path: Path) -> None:
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower

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
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower

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
