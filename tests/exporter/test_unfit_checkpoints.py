"""Checkpoints and folders that cannot be loaded: one sentence each, which names the cause."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from made_checkpoints import TINY, Weights, weights_of
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file

from exporter.errors import ExportError
from exporter.source.loading import load_source
from exporter.weights.checkpoint_reading import Place, read_checkpoint
from exporter.weights.checkpoints import load_weights

pytestmark = pytest.mark.usefixtures("architectures")


def refusal(weights: Weights, architecture: str = "check-tiny") -> str:
    model = open_clip.create_model(architecture)
    with pytest.raises(ExportError) as error:
        load_weights(model, {Place("", name): tensor for name, tensor in weights.items()}, Path("a.pt"), architecture)
    assert "\n" not in str(error.value)
    return str(error.value)


def is_text(name: str) -> bool:
    return not name.startswith(("visual.", "logit_"))


RENAMED: dict[str, tuple[Callable[[str], str], str]] = {
    "text tower": (
        lambda name: f"text_encoder.{name}" if is_text(name) else name,
        r"33 of the 62 names .* and 29 other names have text_encoder in them, unlike open_clip's \(text_encoder\.positional_emb.* "
        r"in place of positional_embedding\); save them under",
    ),
    "text tower, wrapped": (
        lambda name: f"model.module.text_encoder.{name}" if is_text(name) else f"model.module.{name}",
        r"29 other names have text_encoder in them, .*\(model\.text_encoder\.positional_embedding in place",
    ),
    "module between": (lambda name: name.replace("visual.", "visual.inner."), "32 other names have inner in them"),
    "LoRA": (
        lambda name: name.replace(".c_fc.weight", ".c_fc.base_layer.weight"),
        r"4 other names have base_layer in them, .*; merge the adapters",
    ),
    "parametrized": (
        lambda name: name.replace(".c_fc.weight", ".c_fc.parametrizations.weight.original"),
        r"4 other names have parametrizations and original in them, .*; take the parametrizations out",
    ),
}


class TestForeignNames:
    @pytest.mark.parametrize("architecture", ["check-tiny", "check-custom"])
    @pytest.mark.parametrize("kind", RENAMED)
    def test_parts_that_are_too_many_are_named(self, kind: str, architecture: str, weights: Weights) -> None:
        rename, match = RENAMED[kind]
        adapters = (
            {"visual.transformer.resblocks.0.mlp.c_fc.lora_A.weight": torch.ones(4, 64)} if kind == "LoRA" else {}
        )
        said = refusal({rename(name): tensor for name, tensor in weights.items()} | adapters, architecture)
        assert re.search(match if architecture == "check-tiny" else match.replace("62", "63"), said), said
        assert "local-dir" not in said

    def test_a_smaller_tower_that_alone_has_open_clips_names(self) -> None:
        """Most of the model is under a beginning of its own: what is missing is there, and what is there has too much."""
        deep = {**TINY, "text_cfg": {**TINY["text_cfg"], "layers": 4}}
        model = open_clip.CLIP(**deep)
        said = refusal_of(model, {f"enc.{k}" if is_text(k) else k: v for k, v in weights_of(model).items()})
        assert re.search(r"53 of the 86 names .* 53 other names have enc in them, .*\(enc\.\S+ in place of", said), said

    def test_the_image_towers_names_where_most_of_the_model_is_text(self) -> None:
        deep = {**TINY, "text_cfg": {**TINY["text_cfg"], "layers": 6}}
        model = open_clip.CLIP(**deep)
        said = refusal_of(model, {k.replace("visual.", "vision_model.x"): v for k, v in weights_of(model).items()})
        assert "the others start with vision_model. (vision_model.xclass_embedding)" in said

    def test_no_name_of_open_clips_and_no_part_that_is_foreign(self, weights: Weights) -> None:
        assert "0 of the 62 names" in refusal({f"weight.{name}.0": tensor for name, tensor in weights.items()})

    def test_an_architecture_that_is_not_listed_is_still_that(self, weights: Weights) -> None:
        """More blocks in one tower and fewer in the other: names like the missing ones are there, and none is foreign."""
        content = {name: tensor for name, tensor in weights.items() if not name.startswith("transformer.resblocks.1.")}
        block = {name: tensor for name, tensor in weights.items() if name.startswith("visual.transformer.resblocks.1.")}
        content |= {
            name.replace("blocks.1.", "blocks.1.transformer.resblocks.1."): tensor for name, tensor in block.items()
        }
        assert "no architecture that open_clip lists" in refusal(content)


def refusal_of(model: Any, weights: Weights) -> str:
    with pytest.raises(ExportError) as error:
        load_weights(model, {Place("", name): tensor for name, tensor in weights.items()}, Path("a.pt"), "check-deep")
    return str(error.value)


class TestValues:
    @pytest.mark.parametrize(
        ("name", "change", "match"),
        [
            (
                "logit_scale",
                lambda _: torch.tensor(4),
                "logit_scale of a.pt is of type int64, not plain floating-point",
            ),
            ("logit_scale", lambda _: torch.tensor(True), "logit_scale of a.pt is of type bool"),
            ("logit_scale", lambda _: torch.tensor(1 + 0j), "logit_scale of a.pt is of type complex64"),
            ("visual.positional_embedding", lambda _: torch.ones(5, 64, dtype=torch.int64), "is of type int64"),
            ("visual.proj", lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8), r"is quantized \(qint8\)"),
            ("visual.proj", lambda t: t.to_sparse(), "visual.proj of a.pt is sparse"),
            ("visual.proj", lambda t: t.to_sparse_csr(), "visual.proj of a.pt is sparse"),
            ("visual.proj", lambda t: t.to("meta"), "is without values"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:torch.quantize", "ignore:Sparse CSR")
    def test_tensors_that_are_no_weights_are_named(
        self, name: str, change: Callable[[torch.Tensor], torch.Tensor], match: str, weights: Weights
    ) -> None:
        assert re.search(match, refusal({**weights, name: change(weights[name])}))


class TestFiles:
    def test_what_the_system_refuses(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(ExportError, match=r"cannot be read \(File name too long\)"):
            read_checkpoint(tmp_path / f"{'a' * 300}.pt")
        with pytest.raises(ExportError, match=r"cannot be read \(File name too long\)"):
            load_source("check-tiny", f"{'a' * 300}.pt")
        with pytest.raises(ExportError, match=r"cannot be read \(File name too long\)"):
            load_source(f"local-dir:{'a' * 300}")
        torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))

        def refuse(path: Path, *_: Any) -> Any:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "iterdir", refuse)
        with pytest.raises(ExportError, match=r"cannot be read \(Permission denied\)"):
            load_source(f"local-dir:{tmp_path}")
        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(ExportError, match=r"a\.pt cannot be read \(Permission denied\)"):
            read_checkpoint(tmp_path / "a.pt")

    @pytest.mark.parametrize("name", ["a.safetensors", "a.pt"])
    def test_a_good_file_under_a_path_that_is_not_utf8_is_not_called_damaged(self, name: str, tmp_path: Path) -> None:
        folder = tmp_path / os.fsdecode(b"m\xff")
        folder.mkdir()
        (save_file if name.endswith("s") else torch.save)({"a": torch.ones(1)}, tmp_path / name)
        (tmp_path / name).rename(folder / name)
        with pytest.raises(ExportError, match="because its path is not UTF-8") as error:
            read_checkpoint(folder / name)
        assert "delete" not in str(error.value)


class TestFolders:
    @pytest.fixture
    def folder(self, weights: Weights, tmp_path: Path) -> Callable[..., str]:
        def write(preprocess: dict[str, Any] | None = None, **tensors: torch.Tensor) -> str:
            config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
            (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
            save_file({**weights, **tensors}, tmp_path / "open_clip_model.safetensors")
            return f"local-dir:{tmp_path}"

        return write

    @pytest.mark.parametrize("value", [1000.0, 100.0, 30.0])
    def test_a_scale_that_is_no_logarithm(self, value: float, folder: Callable[..., str]) -> None:
        with pytest.raises(
            ExportError, match=rf"logit_scale of .*model\.safetensors is {value:g}, .*stores the logarithm"
        ):
            load_source(folder(logit_scale=torch.tensor(value)), with_tokenizer=False)

    @pytest.mark.parametrize("value", [-800.0, 0.0, 20.0])
    def test_scales_that_a_bundle_can_hold(self, value: float, folder: Callable[..., str]) -> None:
        source = load_source(folder(logit_scale=torch.tensor(value)), with_tokenizer=False)
        assert source.info.logit_scale == pytest.approx(torch.tensor(value).double().exp().item())

    @pytest.mark.parametrize(
        ("preprocess", "match"),
        [
            (
                {"std": [0.0, 0.0, 0.0]},
                r"std \[0\.0, 0\.0, 0\.0\] of local-dir:.* is out of its range, .*1e-06 to 1000",
            ),
            ({"std": -1}, "std -1 of .* is out of its range"),
            ({"mean": float("nan")}, "mean nan of .* is out of its range"),
            ({"mean": [1, 2]}, r"mean \[1, 2\] of .* neither a number nor three of them"),
            ({"mean": [0.5] * 4}, "mean .* neither"),
            ({"mean": "0.5"}, "mean '0.5' of .* neither"),
            ({"std": [None, 1, 2]}, "std .* neither"),
            ({"mean": {"r": 1}}, "mean .* neither"),
        ],
    )
    def test_what_no_picture_can_be_normalized_with(
        self, preprocess: dict[str, Any], match: str, folder: Callable[..., str]
    ) -> None:
        with pytest.raises(ExportError, match=match) as error:
            load_source(folder(preprocess), with_tokenizer=False)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        "preprocess",
        [
            {"mean": [0.5], "std": [0.25]},
            {"mean": 0.5, "std": 0.25},
            {"mean": 0, "std": 0},
            {"mean": [], "std": []},
            {"mean": [0, 0, 0], "std": [1, 1, 1]},
        ],
    )
    def test_pictures_are_normalized_as_open_clip_does(
        self, preprocess: dict[str, Any], folder: Callable[..., str]
    ) -> None:
        ours = load_source(folder(preprocess), with_tokenizer=False).preprocess
        transform: Any = image_transform_v2(PreprocessCfg(size=32, **preprocess), is_train=False)
        theirs = transform(Image.new("RGB", (32, 32), (50, 60, 70)))[:, 0, 0]
        scaled = torch.tensor([50, 60, 70]) / 255
        torch.testing.assert_close((scaled - torch.tensor(ours.mean)) / torch.tensor(ours.std), theirs)
