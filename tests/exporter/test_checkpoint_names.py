"""Names in checkpoints: wrappers, containers, averages, several models in one file, and names of another architecture."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_checkpoints import (
    Weights,
    assert_equal,
    command_in,
    load,
    make_model,
    prefixed,
    weights_of,
)
from torch import nn
from torch.optim.swa_utils import AveragedModel

from exporter.convert_checkpoint import main
from exporter.errors import ExportError
from exporter.weights.checkpoints import load_weights
from exporter.weights.random_weights import uninitialized_parameters

pytestmark = pytest.mark.usefixtures("architectures")


class Training(nn.Module):
    """The shape of a Lightning module: the model under a name, and a loss beside it."""

    def __init__(self, name: str, model: nn.Module) -> None:
        super().__init__()
        self.add_module(name, model)
        self.loss = nn.Linear(2, 2)


def compile_parts(model: Any) -> nn.Module:
    """Some submodules compiled, as training scripts do that cannot compile the whole."""
    model.visual.transformer.resblocks[1].mlp = torch.compile(model.visual.transformer.resblocks[1].mlp)
    model.transformer = torch.compile(model.transformer)
    return model


def spelled(model: nn.Module, rename: Callable[[str], str]) -> Weights:
    return {rename(name): tensor for name, tensor in model.state_dict().items()}


WRAPPED: dict[str, Callable[[nn.Module], Any]] = {
    "bare": lambda model: model.state_dict(),
    "compiled DataParallel": lambda model: torch.compile(nn.DataParallel(model)).state_dict(),
    "DataParallel of compiled": lambda model: nn.DataParallel(torch.compile(model)).state_dict(),
    "twice DataParallel": lambda model: nn.DataParallel(nn.DataParallel(model)).state_dict(),
    "FSDP": lambda model: spelled(
        model, lambda name: "_fsdp_wrapped_module." + name.replace("resblocks.", "resblocks._fsdp_wrapped_module.")
    ),
    "checkpointed blocks": lambda model: spelled(
        model, lambda name: re.sub(r"(resblocks\.\d+)", r"\1._checkpoint_wrapped_module", name)
    ),
    "compiled submodules": lambda model: compile_parts(model).state_dict(),
    "AveragedModel": lambda model: AveragedModel(model).state_dict(),
    "AveragedModel of DataParallel": lambda model: {"averaged": AveragedModel(nn.DataParallel(model)).state_dict()},
    "Lightning": lambda model: {"state_dict": Training("model", model).state_dict()},
    "Lightning, compiled": lambda model: {"state_dict": Training("net", torch.compile(model)).state_dict()},
    "clip_model": lambda model: Training("clip_model", model).state_dict(),
    "DeepSpeed": lambda model: {"module": model.state_dict(), "ds_version": "1", "global_steps": 3},
    "towers apart": lambda model: {
        "visual": model.visual.state_dict(),  # type: ignore[operator, union-attr]
        "text": {name: tensor for name, tensor in model.state_dict().items() if not name.startswith("visual.")},
    },
    **{
        key: lambda model, key=key: {"epoch": 1, key: model.state_dict(), "optimizer": {"state": {0: torch.ones(3)}}}
        for key in ("model_ema", "ema", "params", "net", "model", "state_dict", "state_dict_ema", "anything")
    },
}


class TestNames:
    @pytest.mark.parametrize("name", ["check-tiny", "check-custom"])
    @pytest.mark.parametrize("wrapped", WRAPPED)
    def test_wrappers(self, wrapped: str, name: str, weights: Weights, tmp_path: Path) -> None:
        file = tmp_path / "weights.pt"
        torch.save(WRAPPED[wrapped](make_model()), file)
        loaded, notes = load(file, name)
        expected = {name.removeprefix("text."): tensor for name, tensor in loaded.items() if name != "logit_bias"}
        assert expected.keys() == weights.keys()
        assert_equal(expected, weights)
        text = " ".join(notes)
        assert ("averaged weights" in text) == ("ema" in wrapped or "Averaged" in wrapped)
        assert ("loss.weight, " in text and "left out" in text) == (wrapped.startswith(("Lightning", "clip_model")))

    @settings(max_examples=60, deadline=None)
    @given(data=st.data())
    def test_any_wrappers_anywhere(self, data: st.DataObject, weights: Weights) -> None:
        wrapper = st.sampled_from(["module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"])
        modules = sorted({name.rpartition(".")[0] for name in weights} - {""})
        wrapped = data.draw(st.dictionaries(st.sampled_from(modules), wrapper, max_size=6))
        prefix = ".".join([*data.draw(st.lists(st.sampled_from(["model", "module", "a", "ema"]), max_size=3)), ""])

        def rename(name: str) -> str:
            parts, path = [], ""
            for part in name.split("."):
                path = f"{path}.{part}".removeprefix(".")
                parts += [part, *([wrapped[path]] if path in wrapped else [])]
            return prefix.removeprefix(".") + ".".join(parts)

        model = open_clip.create_model("check-tiny")
        checkpoint = {_place(rename(name)): tensor for name, tensor in weights.items()}
        load_weights(model, checkpoint, Path("weights.pt"), "check-tiny")
        assert not checkpoint
        assert_equal(dict(model.state_dict()), weights)

    @pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema", "ema"])
    @pytest.mark.parametrize("plain", ["state_dict", "model"])
    @pytest.mark.parametrize("first", [True, False])
    def test_trained_weights_are_taken_before_their_averages(
        self, averaged: str, plain: str, first: bool, weights: Weights, others: Weights, tmp_path: Path
    ) -> None:
        file = tmp_path / "last.pt"
        content = {plain: weights, averaged: prefixed(others, "module.")}
        torch.save(content if first else dict(reversed(content.items())), file)
        loaded, (note,) = load(file)
        assert_equal(loaded, weights)
        assert note.startswith(
            f"weights: {plain} of last.pt was taken; it also holds {averaged}.module (averaged weights)"
        )
        command = command_in(note)
        assert "--trust" not in command
        assert main(shlex.split(command)[3:]) == 0
        out = tmp_path / f"last-{averaged.replace('_', '-')}-module.safetensors"
        assert_equal(load(out)[0], others)

    def test_what_averages_is_seen_by_its_count(self, weights: Weights, others: Weights, tmp_path: Path) -> None:
        average = {"n_averaged": torch.tensor(3), **prefixed(others, "module.")}
        torch.save({"best": average, "last": weights}, tmp_path / "a.pt")
        loaded, (note,) = load(tmp_path / "a.pt")
        assert_equal(loaded, weights)
        assert "best.module (averaged weights)" in note

    def test_several_models(self, weights: Weights, others: Weights, tmp_path: Path) -> None:
        file = tmp_path / "distilled.pt"
        torch.save({"student": weights, "teacher": others}, file)
        with pytest.raises(ExportError, match="several models that fit check-tiny: student, teacher") as error:
            load(file)
        assert main(shlex.split(command_in(str(error.value)))[3:]) == 0
        assert_equal(load(tmp_path / "distilled-student.safetensors")[0], weights)
        wide = {name: tensor.repeat(2) if tensor.ndim == 1 else tensor for name, tensor in others.items()}
        torch.save({**prefixed(weights, "net."), **prefixed(wide, "teacher."), **prefixed(wide, "alpha.")}, file)
        loaded, notes = load(file)
        assert_equal(loaded, weights)
        assert "net of distilled.pt was taken; it also holds teacher, alpha" in notes[0]

    def test_the_same_weights_twice_are_one_model(self, weights: Weights, tmp_path: Path) -> None:
        torch.save({"a": weights, "b": weights}, tmp_path / "a.pt")
        assert load(tmp_path / "a.pt")[1] == ()

    def test_tensors_too_many_are_no_model_of_the_architecture(self, weights: Weights, tmp_path: Path) -> None:
        for extra in ("text_decoder.weight", "visual.transformer.resblocks.2.ln_1.weight"):
            for prefix in ("", "model."):
                torch.save(prefixed({**weights, extra: torch.ones(64)}, prefix), tmp_path / "a.pt")
                with pytest.raises(ExportError, match=rf"it has {prefix}{extra} too many; no architecture.*local-dir"):
                    load(tmp_path / "a.pt")

    @pytest.mark.parametrize(
        ("names", "match"),
        [
            (
                ["vision_model.a.weight", "text_model.b.weight", "logit_scale"],
                r"have 1 of the .* vision_model\., text_model\. ",
            ),
            (
                ["encoder.backbone.a.weight", "encoder.backbone.b"],
                r"have 0 of .* start with encoder\.backbone\. \(encoder",
            ),
            (["conv.weight"], r"start with conv\. \(conv\.weight\) where the architecture has names like"),
        ],
    )
    @pytest.mark.parametrize("container", [None, "state_dict"])
    def test_foreign_names_are_named(self, names: list[str], match: str, container: str | None, tmp_path: Path) -> None:
        content = dict.fromkeys(names, torch.tensor(1.0))
        torch.save(content if container is None else {container: content}, tmp_path / "a.pt")
        with pytest.raises(ExportError, match=match) as error:
            load(tmp_path / "a.pt")
        assert "\n" not in str(error.value)
        assert "trained as" not in str(error.value)

    @pytest.mark.parametrize("prefix", ["module."])
    def test_apples_names_are_converted_under_wrappers_too(self, prefix: str, tmp_path: Path) -> None:
        """The names of MobileCLIP's own files, made from open_clip's by undoing what its conversion does."""
        text = {
            "transformer.resblocks.": "transformer.",
            "attn.in_proj_": "attn.qkv_proj.",
            "mlp.c_fc": "pre_norm_ffn.1",
            "mlp.c_proj": "pre_norm_ffn.4",
            "ln_1": "pre_norm_mha.0",
            "ln_2": "pre_norm_ffn.0",
            ".attn.": ".pre_norm_mha.1.",
            "text_projection": "projection_layer",
            "token_embedding": "embedding_layer",
            "ln_final": "final_layer_norm",
            "positional_embedding": "positional_embedding.pos_embed.pos_embed",
            "text.": "text_encoder.",
        }
        image = {
            "stem": "patch_embed",
            "conv_kxk": "rbr_conv",
            ".gamma": "",
            "head.fc.": "head.",
            "visual.trunk.": "image_encoder.model.",
        }
        weights = weights_of(make_model("MobileCLIP-S1"))
        content: Weights = {}
        for name, tensor in weights.items():
            theirs = name
            for ours, apples in (text if name.startswith("text.") else image).items():
                theirs = theirs.replace(ours, apples)
            content[prefix + theirs] = tensor
        model = open_clip.create_model("MobileCLIP-S1")
        load_weights(model, {_place(name): tensor for name, tensor in content.items()}, tmp_path, "MobileCLIP-S1")
        assert_equal(dict(model.state_dict()), weights)
        with pytest.raises(ExportError, match=r"image_encoder\., text_encoder\."):
            tiny = open_clip.create_model("check-tiny")
            load_weights(tiny, {_place(name): tensor for name, tensor in content.items()}, tmp_path, "check-tiny")

    def test_a_wrapped_checkpoint_of_another_architecture_is_recognised(self, tmp_path: Path) -> None:
        with uninitialized_parameters():
            shapes = open_clip.create_model("ViT-B-32").state_dict()
        content = {f"model.module.{name}": torch.zeros(()).expand(tensor.shape) for name, tensor in shapes.items()}
        torch.save({"state_dict": content}, tmp_path / "a.pt")
        with pytest.raises(ExportError, match="it fits ViT-B-32: pass that as MODEL"):
            load(tmp_path / "a.pt")

    def test_files_that_refer_to_themselves(self, weights: Weights, tmp_path: Path) -> None:
        content: dict[str, Any] = {"state_dict": weights}
        content["self"] = content
        deep: dict[str, Any] = {}
        inner = deep
        for _ in range(50):
            inner["a"] = {}
            inner = inner["a"]
        inner["weight"] = torch.ones(1)
        torch.save({**content, "deep": deep}, tmp_path / "a.pt")
        assert_equal(load(tmp_path / "a.pt")[0], weights)


def _place(full: str) -> Any:
    from exporter.weights.checkpoint_reading import Place

    return Place("", full)
