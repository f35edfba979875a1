"""Checkpoints as they come from training: pickled objects around the weights, wrapped names, averages, other image sizes."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel

from exporter.checkpoint_reading import read_checkpoint
from exporter.checkpoints import load_weights
from exporter.convert_checkpoint import convert_checkpoint, main
from exporter.errors import ExportError
from exporter.random_weights import fill_random, uninitialized_parameters
from exporter.source import load_source

ROOT = Path(__file__).parents[2]
TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
TINY: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
CONFIGS: dict[str, dict[str, Any]] = {
    "check-tiny": TINY,
    "check-custom": {**TINY, "custom_text": True, "init_logit_bias": -10},
    "check-large": {**TINY, "vision_cfg": {**VISION, "image_size": 48}},
    "check-small": {**TINY, "vision_cfg": {**VISION, "image_size": 16}},
    "check-wide": {**TINY, "vision_cfg": {**VISION, "image_size": [32, 64]}},
    "check-short-text": {**TINY, "text_cfg": {**TEXT, "context_length": 9}},
    "check-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
    "check-resnet-large": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
}
Weights = dict[str, torch.Tensor]


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def make_model(name: str = "check-tiny", seed: int = 7) -> nn.Module:
    model = open_clip.create_model(name)
    fill_random(model, seed=seed)
    return model


def weights_of(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.fixture(scope="module")
def weights(architectures: None) -> Weights:
    return weights_of(make_model())


@pytest.fixture(scope="module")
def others(architectures: None) -> Weights:
    return weights_of(make_model(seed=8))


def load(path: Path, name: str = "check-tiny") -> tuple[Weights, tuple[str, ...]]:
    """What the exporter loads, and the notes that it would print."""
    model = open_clip.create_model(name)
    notes = load_weights(model, read_checkpoint(path), path, name)
    return dict(model.state_dict()), notes


def assert_equal(loaded: Weights, expected: Weights) -> None:
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def command_in(message: str) -> str:
    """The one shell command that a message prints between backticks."""
    (command,) = re.findall(r"`(python -m exporter\.convert_checkpoint .*?)`", message)
    return command


def run_line(command: str, folder: Path, *import_from: Path) -> subprocess.CompletedProcess[str]:
    """Run a printed line in a shell, with this environment's python first on PATH."""
    path = os.pathsep.join(map(str, (ROOT, *import_from)))
    environment = {**os.environ, "PYTHONPATH": path, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)


class TestPickledObjects:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_settings_beside_the_weights_need_no_conversion(
        self, zipped: bool, weights: Weights, tmp_path: Path
    ) -> None:
        file = tmp_path / "epoch.pt"
        content = {
            "state_dict": weights,
            "args": argparse.Namespace(lr=1e-3, root=Path("/data"), nested=argparse.Namespace(a=[1, {"b": 2}])),
            "top1": np.float64(0.5),
            "steps": np.arange(3),
            "names": np.array(["a", None], dtype=object),
            "when": datetime.datetime(2026, 1, 2),
            "torch": torch.__version__,
        }
        torch.save(content, file, _use_new_zipfile_serialization=zipped)
        loaded, notes = load(file)
        assert_equal(loaded, weights)
        assert not notes

    @pytest.mark.parametrize("zipped", [True, False])
    def test_numpys_own_pickles_run_nothing(self, zipped: bool, weights: Weights, tmp_path: Path) -> None:
        """A numpy scalar of dtype object is a pickle inside the pickle, which older versions load without any limits."""
        import pickle

        class Payload:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "ran"),)

        class Scalar:
            def __reduce__(self) -> Any:
                return np.float64(1).__reduce__()[0], (np.dtype(object), pickle.dumps(Payload()))

        file = tmp_path / "weights.pt"
        torch.save({"state_dict": weights, "top1": Scalar()}, file, _use_new_zipfile_serialization=zipped)
        assert_equal(load(file)[0], weights)
        assert not (tmp_path / "ran").exists()

    @pytest.mark.filterwarnings(
        "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::torch.jit.TracerWarning"
    )
    @pytest.mark.parametrize("kind", ["module", "module in a mapping", "lightning", "protocol 4", "program"])
    def test_the_printed_line_makes_a_file_that_loads(
        self, kind: str, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "code").mkdir()
        (tmp_path / "code" / f"settings_{os.getpid()}.py").write_text("class Settings(dict):\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path / "code")
        settings_class = __import__(f"settings_{os.getpid()}").Settings
        model = make_model().eval()
        file = tmp_path / 'it\'s my "best" $HOME run;.pth'
        if kind == "program":
            images, ids = torch.zeros(1, 3, 32, 32), torch.zeros(1, 16, dtype=torch.long)
            torch.jit.save(torch.jit.trace(model, (images, ids), strict=False, check_trace=False), file)
        elif kind == "protocol 4":
            torch.save({"state_dict": weights, "note": {"a", "b"}}, file, pickle_protocol=4)
        else:
            lightning = {
                "state_dict": {**prefixed(weights, "model."), "loss.scale": torch.ones(1)},
                "hyper_parameters": settings_class(lr=np.float32(1), root=tmp_path, args=argparse.Namespace(a=1)),
                "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}}],
                "loops": {"fit_loop": {"state_dict": {}}},
            }
            kinds = {"module": model, "module in a mapping": {"epoch": 3, "model": model}, "lightning": lightning}
            torch.save(kinds[kind], file)
        with pytest.raises(ExportError) as error:
            read_checkpoint(file)
        assert "\n" not in str(error.value)
        ran = run_line(command_in(str(error.value)), tmp_path, tmp_path / "code")
        assert ran.returncode == 0, ran.stderr
        assert_equal(load(file.with_suffix(".safetensors"))[0], weights)

    def test_a_path_that_looks_like_an_option_and_a_folder_of_open_clips_format(
        self, weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        torch.save({"model": make_model()}, "-x.pt")
        with pytest.raises(ExportError) as error:
            read_checkpoint(Path("-x.pt"))
        assert run_line(command_in(str(error.value)), tmp_path).returncode == 0
        assert_equal(load(Path("-x.safetensors"))[0], weights)
        (tmp_path / "clip").mkdir()
        (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
        (tmp_path / "-x.pt").rename(tmp_path / "clip" / "pytorch_model.bin")
        with pytest.raises(ExportError) as error:
            load_source("local-dir:clip", with_tokenizer=False)
        assert run_line(command_in(str(error.value)), tmp_path).returncode == 0
        assert_equal(dict(load_source("local-dir:clip", with_tokenizer=False).model.state_dict()), weights)

    def test_the_command_runs_no_code_unless_told(self, weights: Weights, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "ran"),)

        file, out = tmp_path / "evil.pt", tmp_path / "out.safetensors"
        torch.save({"state_dict": weights, "payload": Payload()}, file)
        with pytest.raises(ExportError, match=r"holds posix\.mkdir"):
            convert_checkpoint(file, out)
        assert not (tmp_path / "ran").exists()
        assert not out.exists()
        assert convert_checkpoint(file, out, trust=True) == len(weights)
        assert (tmp_path / "ran").exists()

    def test_faults_of_the_conversion(
        self, weights: Weights, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        file, out = tmp_path / "a.pt", tmp_path / "out.safetensors"
        torch.save({"state_dict": weights, "sparse": torch.eye(2).to_sparse()}, file)
        cases: list[tuple[list[str], str]] = [
            ([str(file), str(tmp_path / "out.pt")], "does not end in .safetensors"),
            ([str(file), str(out), "--part", "ema"], "no part 'ema'; its names start with sparse, state_dict"),
            ([str(file), str(out)], "sparse of .* is sparse or quantized"),
            ([str(file), str(tmp_path / "none" / "out.safetensors"), "--part=state_dict"], "cannot be written"),
            ([str(tmp_path / "b.pt"), str(out)], "no such checkpoint"),
        ]
        for arguments, message in cases:
            assert main(arguments) == 1
            error = capsys.readouterr().err
            assert re.search(message, error), error
            assert error.count("\n") == 1
        assert main([str(file), str(out), "--part", "state_dict"]) == 0
        assert set(load_file(out)) == set(weights)
        assert main([str(file), str(out), "--part", "state_dict"]) == 1
        assert "is there already" in capsys.readouterr().err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pt", "out.safetensors"]

    def test_a_class_that_cannot_be_imported_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "gone_away.py").write_text("class Settings:\n    pass\n")
        monkeypatch.syspath_prepend(tmp_path)
        torch.save({"a": __import__("gone_away").Settings()}, tmp_path / "a.pt")
        monkeypatch.undo()
        monkeypatch.delitem(sys.modules, "gone_away")
        with pytest.raises(ExportError, match=r"No module named 'gone_away'.*PYTHONPATH"):
            convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.safetensors", trust=True)

    def test_shared_and_strided_tensors_are_written_whole(self, tmp_path: Path) -> None:
        whole = torch.arange(12.0).view(3, 4)
        torch.save({"a": whole, "b": whole, "c": whole[1], "d": whole.T}, tmp_path / "a.pt")
        convert_checkpoint(tmp_path / "a.pt", tmp_path / "b.safetensors")
        expected = {"a": whole, "b": whole, "c": whole[1], "d": whole.T}
        assert_equal(load_file(tmp_path / "b.safetensors"), expected)


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
    from exporter.checkpoint_reading import Place

    return Place("", full)


class TestImageSizes:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("name", ["check-large", "check-small", "check-wide", "check-short-text"])
    def test_positions_are_open_clips_in_float32(
        self, name: str, dtype: torch.dtype, weights: Weights, tmp_path: Path
    ) -> None:
        rounded = {key: tensor.to(dtype) for key, tensor in weights.items()}
        save_file(rounded, tmp_path / "rounded.safetensors")
        save_file({key: tensor.float() for key, tensor in rounded.items()}, tmp_path / "wide.safetensors")
        loaded, (note,) = load(tmp_path / "rounded.safetensors", name)
        expected = open_clip.create_model(name, pretrained=str(tmp_path / "wide.safetensors"))
        assert_equal(loaded, dict(expected.state_dict()))
        assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
        assert re.search(rf"positional_embedding was interpolated from \d+ to \d+ positions to fit {name}", note)

    def test_half_precision_models(self, weights: Weights, tmp_path: Path) -> None:
        save_file({key: tensor.half() for key, tensor in weights.items()}, tmp_path / "half.safetensors")
        model = open_clip.create_model("check-large")
        load_weights(model, read_checkpoint(tmp_path / "half.safetensors"), tmp_path, "check-large", torch.float16)
        assert {tensor.dtype for tensor in model.state_dict().values()} == {torch.float16}

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
    @pytest.mark.parametrize("names", [("check-resnet", "check-resnet-large"), ("check-resnet-large", "check-resnet")])
    def test_resnets_attention_pooling_is_resized_as_vits_table(
        self, names: tuple[str, str], dtype: torch.dtype, tmp_path: Path
    ) -> None:
        before, after = names
        small = {key: tensor.to(dtype) for key, tensor in weights_of(make_model(before)).items()}
        save_file(small, tmp_path / "a.safetensors")
        loaded, (note,) = load(tmp_path / "a.safetensors", after)
        assert "visual.attnpool.positional_embedding was interpolated" in note
        table = small["visual.attnpool.positional_embedding"].float()
        side, wanted = (2, 3) if before == "check-resnet" else (3, 2)
        grid = table[1:].T.view(1, -1, side, side)
        grid = nn.functional.interpolate(grid, size=(wanted, wanted), mode="bicubic", antialias=True)
        expected = torch.cat([table[:1], grid.flatten(2)[0].T])
        torch.testing.assert_close(loaded["visual.attnpool.positional_embedding"], expected, rtol=0, atol=1e-6)

    def test_positions_of_pictures_that_are_not_square(self, tmp_path: Path) -> None:
        save_file(weights_of(make_model("check-wide")), tmp_path / "wide.safetensors")
        assert load(tmp_path / "wide.safetensors", "check-wide")[1] == ()
        with pytest.raises(ExportError, match=r"has 33 positions.*interpolated to the 17 of the model"):
            load(tmp_path / "wide.safetensors", "check-tiny")

    def test_tables_of_another_width(self, weights: Weights, tmp_path: Path) -> None:
        for name, table in (
            ("positional_embedding", torch.ones(16, 33)),
            ("visual.positional_embedding", torch.ones(3)),
        ):
            save_file({**weights, name: table}, tmp_path / "a.safetensors")
            with pytest.raises(ExportError, match=rf"differs in size \({name}"):
                load(tmp_path / "a.safetensors")

    @pytest.mark.parametrize("size", [[32, 64], [64, 32], [16, 24], 64])
    def test_folders_at_another_size_embed_as_open_clip_does(self, size: Any, weights: Weights, tmp_path: Path) -> None:
        config = {**TINY, "vision_cfg": {**VISION, "image_size": size}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
        half = {key: tensor.half() for key, tensor in weights.items()}
        torch.save({"state_dict": prefixed(half, "module.")}, tmp_path / "epoch.pt")
        source = load_source(f"local-dir:{tmp_path}", with_tokenizer=False)
        height, width = source.preprocess.size
        assert [height, width] == ([size, size] if isinstance(size, int) else size)
        (tmp_path / "epoch.pt").unlink()
        save_file({key: tensor.float() for key, tensor in half.items()}, tmp_path / "open_clip_model.safetensors")
        theirs: Any = open_clip.create_model(f"local-dir:{tmp_path}").eval()
        ours: Any = source.model
        images = torch.linspace(-2, 2, 2 * 3 * height * width).sin().view(2, 3, height, width)
        with torch.no_grad():
            torch.testing.assert_close(ours.encode_image(images), theirs.encode_image(images))
        assert_equal(ours.state_dict(), theirs.state_dict())

    def test_timms_towers_have_one_size_in_open_clip_itself(self, tmp_path: Path) -> None:
        """No table to resize: open_clip builds them at timm's own size whatever the configuration says."""
        vision = {"timm_model_name": "vit_tiny_patch16_224", "timm_pool": "", "timm_proj": "linear", "image_size": 112}
        config = {"embed_dim": 16, "vision_cfg": vision, "text_cfg": TEXT, "custom_text": True}
        (tmp_path / "check-timm.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / "check-timm.json")
        model: Any = open_clip.create_model("check-timm")
        assert model.visual.trunk.pos_embed.shape == (1, 197, 192)
        with pytest.raises(AssertionError, match="doesn't match model"):
            model.encode_image(torch.zeros(1, 3, 112, 112))


class TestFillColor:
    @pytest.mark.parametrize(
        ("value", "expected"),
        [
            (None, 0),
            (7, 7),
            (7.9, 7),
            (300, 255),
            ([9, 9, 9], 9),
            ([4], 4),
            ([1, 2, 3], (1, 2, 3)),
            ([255.0, 0.5, -3], (255, 0, 0)),
        ],
    )
    def test_colors_are_the_ones_that_open_clip_pads_with(
        self, value: Any, expected: int | tuple[int, int, int], tmp_path: Path
    ) -> None:
        preprocess = {"resize_mode": "longest", "fill_color": value, "mean": [0, 0, 0], "std": [1, 1, 1]}
        config = {"model_cfg": TINY, "preprocess_cfg": preprocess}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        source = load_source(f"local-dir:{tmp_path}", "none", with_tokenizer=False)
        assert source.preprocess.fill_color == expected
        transform: Any = image_transform_v2(PreprocessCfg(size=8, **preprocess), is_train=False)
        padding = (transform(Image.new("RGB", (20, 8), (50, 60, 70)))[:, 0, 0] * 255).round().int().tolist()
        assert padding == ([expected] * 3 if isinstance(expected, int) else list(expected))

    @pytest.mark.parametrize("value", ["red", [1, 2], [1, 2, 3, 4], ["1", 2, 3], [], {"r": 1}, float("nan")])
    def test_what_is_no_color(self, value: Any, tmp_path: Path) -> None:
        config = {"model_cfg": TINY, "preprocess_cfg": {"resize_mode": "longest", "fill_color": value}}
        (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(ExportError, match=r"fill_color .* neither a number nor three of them"):
            load_source(f"local-dir:{tmp_path}", "none", with_tokenizer=False)
