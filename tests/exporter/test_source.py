"""exporter.source.loading: every way of naming a model, the activation guard, and every kind of bad input, on small real models."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from open_clip import pretrained as open_clip_pretrained
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file
from torch import nn

from engines.files.checksums import file_sha256
from exporter.errors import ExportError
from exporter.source.loading import Source, load_source
from exporter.weights.architectures import find_architectures, quiet_open_clip
from exporter.weights.checkpoint_reading import read_checkpoint
from exporter.weights.random_weights import fill_random, uninitialized_parameters

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.workloads.offline_text_towers import offline_architecture

TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TINY: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8},
    "text_cfg": TEXT,
}
WIDER = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "width": 128}}
RESNET = {"embed_dim": 16, "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16}, "text_cfg": TEXT}
TIMM = {
    "embed_dim": 16,
    "vision_cfg": {"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear", "image_size": 64},
    "text_cfg": TEXT,
    "custom_text": True,
}
BIASED = {**TINY, "init_logit_bias": -10, "custom_text": True}


@pytest.fixture(scope="module", autouse=True)
def tiny_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("configs")
    configs = {
        "test-tiny": TINY,
        "test-tiny-quickgelu": {**TINY, "quick_gelu": True},
        "test-wider": WIDER,
        "test-resnet": RESNET,
        "test-timm": TIMM,
        "test-bias": BIASED,
    }
    for name, config in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_architectures: None) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint of test-tiny with weights of its own."""
    model = open_clip.create_model("test-tiny")
    fill_random(model, seed=7)
    path = tmp_path_factory.mktemp("weights") / "trained.safetensors"
    state_dict = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(state_dict, path)
    return path, state_dict


@contextlib.contextmanager
def registered_tag(architecture: str, tag: str, **config: Any) -> Iterator[None]:
    """A tag in open_clip's own list whose weights are a local file."""
    table = open_clip_pretrained._PRETRAINED.setdefault(architecture, {})
    table[tag] = {
        "mean": (0.5, 0.4, 0.3),
        "std": (0.2, 0.2, 0.2),
        "interpolation": "bilinear",
        "resize_mode": "squash",
        **config,
    }
    try:
        yield
    finally:
        del table[tag]
        if not table:
            del open_clip_pretrained._PRETRAINED[architecture]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub at an address where nothing listens, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))


def cached_repository(cache: Path, name: str, weights: Path) -> Path:
    """A repository as huggingface_hub keeps it: a commit id in refs, the files in the snapshot's folder, which is returned."""
    repository = cache / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copy(weights, snapshot / "open_clip_model.safetensors")
    config = {"model_cfg": TINY, "preprocess_cfg": {"mean": [0, 0, 0]}}
    (snapshot / "open_clip_config.json").write_text(json.dumps(config))
    return snapshot


def embed(source: Source) -> tuple[torch.Tensor, torch.Tensor]:
    height, width = source.preprocess.size
    images = torch.linspace(-2, 2, 2 * 3 * height * width).sin().view(2, 3, height, width)
    assert source.tokenizer is not None
    model: Any = source.model
    with torch.no_grad():
        return model.encode_image(images), model.encode_text(source.tokenizer(["a dog", "two cats"]))


def assert_one_sentence(error: pytest.ExceptionInfo[ExportError]) -> None:
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1200


class TestRandomWeights:
    @pytest.mark.parametrize("name", ["test-tiny", "test-resnet", "test-timm", "test-bias"])
    def test_repeatable_finite_and_marked_random(self, name: str) -> None:
        one, two = load_source(name, "none"), load_source(name, "none")
        for a, b in zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert all(tensor.isfinite().all() for tensor in embed(one))
        assert (one.info.source, one.info.weights, one.info.tag) == ("random", "random", None)
        assert not one.model.training
        assert not any(parameter.requires_grad for parameter in one.model.parameters())

    @pytest.mark.parametrize("name", ["test-tiny", "test-resnet", "test-timm"])
    def test_every_parameter_of_the_towers_matters(self, name: str) -> None:
        """No dead branch: the gradient of the embeddings reaches every tensor."""
        source = load_source(name, "none")
        model: Any = source.model.requires_grad_(True)
        height, width = source.preprocess.size
        images = torch.linspace(-2, 2, 2 * 3 * height * width).sin().view(2, 3, height, width)
        assert source.tokenizer is not None
        loss = (
            model.encode_image(images).square().sum()
            + model.encode_text(source.tokenizer(["a dog", "cats"])).square().sum()
        )
        loss.backward()
        # The key bias cancels in softmax; it is part of a packed bias elsewhere.
        dead = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()}
        assert dead <= {"logit_scale"}

    def test_the_last_norm_of_a_residual_block_is_not_zero(self) -> None:
        model: Any = load_source("test-resnet", "none").model
        assert model.visual.layer1[0].bn3.weight.abs().min() > 0
        assert model.visual.layer1[0].bn3.running_var.std() > 0

    def test_half_precision_holds_the_same_values_rounded(self) -> None:
        full = load_source("test-timm", "none").model.state_dict()
        half = load_source("test-timm", "none", dtype=torch.float16).model.state_dict()
        for name, tensor in full.items():
            if tensor.is_floating_point():
                assert half[name].dtype == torch.float16
                assert torch.equal(half[name], tensor.half())

    @pytest.mark.parametrize(
        "name", ["RN50", "EVA02-B-16", "convnext_base", "swin_base_patch4_window7_224", "PE-Core-T-16-384"]
    )
    def test_skipping_the_initialisation_leaves_computed_buffers_alone(self, name: str) -> None:
        with quiet_open_clip():
            ordinary = open_clip.create_model(name)
            with uninitialized_parameters():
                quick = open_clip.create_model(name)
        for (path, a), (_, b) in zip(ordinary.named_buffers(), quick.named_buffers(), strict=True):
            assert torch.equal(a, b), path

    def test_large_models_build_without_touching_their_memory(self) -> None:
        """ViT-H-14 in half precision peaks below twice its two gigabytes: its float32 form never exists."""
        code = (
            "import resource, torch\n"
            "from exporter.source.loading import load_source\n"
            "import open_clip, timm, transformers\n"
            "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
            "model = load_source('ViT-H-14', 'none', dtype=torch.float16).model\n"
            "weights = sum(p.numel() * p.element_size() for p in model.parameters())\n"
            "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / weights)\n"
        )
        root = Path(__file__).parents[2]
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root)},
            capture_output=True,
            check=True,
        )
        assert float(done.stdout) < 1.5


class TestCheckpoints:
    @pytest.mark.parametrize("kind", ["safetensors", "pt", "legacy.bin", "training.pt", "compiled.pth"])
    def test_all_formats_give_open_clips_model(self, kind: str, trained: Any, tmp_path: Path) -> None:
        path, state_dict = trained
        file = tmp_path / f"weights.{kind}"
        if kind == "safetensors":
            save_file(state_dict, file)
        elif kind == "training.pt":
            content = {
                "epoch": 3,
                "state_dict": {f"module.{k}": v for k, v in state_dict.items()},
                "optimizer": {"state": {}},
            }
            torch.save(content, file)
        elif kind == "compiled.pth":
            torch.save({f"_orig_mod.{k}": v for k, v in state_dict.items()}, file)
        else:
            torch.save(state_dict, file, _use_new_zipfile_serialization=kind == "pt")
        source = load_source("test-tiny", str(file))
        expected = open_clip.create_model("test-tiny", pretrained=str(path)).eval()
        images, texts = embed(source)
        reference = torch.linspace(-2, 2, 2 * 3 * 32 * 32).sin().view(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(images, expected.encode_image(reference))
            ids = open_clip.get_tokenizer("test-tiny")(["a dog", "two cats"])
            torch.testing.assert_close(texts, expected.encode_text(ids))
        for a, b in zip(source.model.state_dict().values(), expected.state_dict().values(), strict=True):
            assert torch.equal(a, b)
        assert source.info.weights == file_sha256(file)
        assert (source.info.name, source.info.architecture, source.info.source) == (
            file.name,
            "test-tiny",
            "checkpoint",
        )
        assert source.info.logit_scale == pytest.approx(expected.logit_scale.exp().item())

    def test_half_precision_files_are_loaded_as_float32(self, trained: Any, tmp_path: Path) -> None:
        file = tmp_path / "half.safetensors"
        save_file({name: tensor.half() for name, tensor in trained[1].items()}, file)
        model: Any = load_source("test-tiny", file).model
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
        assert torch.equal(model.visual.proj, trained[1]["visual.proj"].half().float())

    def test_a_custom_text_architecture_takes_the_old_form(self, trained: Any) -> None:
        source = load_source("test-bias", str(trained[0]))
        model: Any = source.model
        assert torch.equal(model.text.token_embedding.weight, trained[1]["token_embedding.weight"])
        assert source.info.logit_bias == 0.0

    def test_resized_positions_are_noted(self, trained: Any, tmp_path: Path) -> None:
        config = {**TINY, "vision_cfg": {**TINY["vision_cfg"], "image_size": 48}}
        (tmp_path / "test-larger.json").write_text(json.dumps(config))
        open_clip.add_model_config(tmp_path / "test-larger.json")
        source = load_source("test-larger", str(trained[0]))
        assert any("interpolated from 17 to 37" in note for note in source.notes)
        assert source.preprocess.size == (48, 48)

    def test_a_file_does_not_state_its_activation(self, trained: Any) -> None:
        assert any("want test-tiny-quickgelu" in note for note in load_source("test-tiny", str(trained[0])).notes)
        assert not any("want" in note for note in load_source("test-bias", str(trained[0])).notes)

    def test_another_architectures_checkpoint(self, trained: Any) -> None:
        with pytest.raises(ExportError, match=r"test-wider: it differs in size.*; it fits test-tiny: ") as error:
            load_source("test-wider", str(trained[0]))
        assert_one_sentence(error)
        with pytest.raises(
            ExportError, match=r"lacks visual\.bn1\.weight, .* more, has visual\.class_embedding"
        ) as error:
            load_source("test-resnet", str(trained[0]))
        assert_one_sentence(error)

    def test_real_architectures_are_recognised(self) -> None:
        for name in ("ViT-B-32", "RN50x4", "coca_ViT-B-32"):
            with uninitialized_parameters(), quiet_open_clip():
                model = open_clip.create_model(name)
            assert name in find_architectures(model.state_dict())

    @pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".bin", ".pth"])
    @pytest.mark.parametrize("keep", [0, 1, 7, 200, 5000, -1])
    def test_truncated_files(self, suffix: str, keep: int, trained: Any, tmp_path: Path) -> None:
        whole, cut = tmp_path / f"whole{suffix}", tmp_path / f"cut{suffix}"
        if suffix == ".safetensors":
            save_file(trained[1], whole)
        else:
            torch.save(trained[1], whole, _use_new_zipfile_serialization=suffix != ".bin")
        data = whole.read_bytes()
        cut.write_bytes(data[:keep])
        with pytest.raises(ExportError, match="empty" if keep == 0 else "truncated") as error:
            load_source("test-tiny", str(cut))
        assert_one_sentence(error)

    @settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.binary(max_size=200), suffix=st.sampled_from([".safetensors", ".pt"]), zipped=st.booleans())
    def test_any_bytes_are_an_error_of_one_sentence(
        self, data: bytes, suffix: str, zipped: bool, tmp_path: Path
    ) -> None:
        file = tmp_path / f"bytes{suffix}"
        file.write_bytes((b"PK\x03\x04" if zipped else b"\x80\x02") + data)
        with pytest.raises(ExportError) as error:
            read_checkpoint(file)
        assert_one_sentence(error)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_no_code_of_a_file_runs(self, zipped: bool, tmp_path: Path) -> None:
        class Payload:
            def __reduce__(self) -> Any:
                return os.mkdir, (str(tmp_path / "ran"),)

        file = tmp_path / "evil.pt"
        torch.save({"state_dict": {}, "payload": Payload()}, file, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ExportError, match=r"holds posix\.mkdir.*would run code.*if you trust it") as error:
            load_source("test-tiny", str(file))
        assert not (tmp_path / "ran").exists()
        assert_one_sentence(error)

    def test_refused_objects_are_named(self, trained: Any, tmp_path: Path) -> None:
        file = tmp_path / "fraction.pt"
        torch.save({"state_dict": trained[1], "momentum": Fraction(9, 10)}, file)
        with pytest.raises(ExportError, match=r"holds fractions\.Fraction"):
            load_source("test-tiny", str(file))

    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_torchscript_is_refused(self, tmp_path: Path) -> None:
        file = tmp_path / "scripted.pt"
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), file)
        with pytest.raises(ExportError, match=r"TorchScript.*exporter\.convert_checkpoint"):
            load_source("test-tiny", str(file))

    def test_files_that_hold_no_weights(self, tmp_path: Path) -> None:
        torch.save([1, 2], tmp_path / "list.pt")
        (tmp_path / "pointer.bin").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        (tmp_path / "notes.txt").write_text("hello")
        for name, match in (
            ("list.pt", "no model weights"),
            ("pointer.bin", "git lfs pull"),
            ("notes.txt", "does not end"),
        ):
            with pytest.raises(ExportError, match=match):
                load_source("test-tiny", str(tmp_path / name))
        for path, match in ((tmp_path / "missing.pt", "no such checkpoint"), (tmp_path, "is a folder")):
            with pytest.raises(ExportError, match=match):
                load_source("test-tiny", str(path))


class TestTags:
    def test_the_guard_sets_the_activation_that_the_tag_was_trained_with(self, trained: Any) -> None:
        with registered_tag("test-tiny", "quick", file=str(trained[0]), quick_gelu=True):
            source = load_source("test-tiny", "quick")
            assert source.info.quick_gelu
            assert any(note.startswith("activation: QuickGELU in both towers, as quick was") for note in source.notes)
            named = load_source("test-tiny-quickgelu", str(trained[0]))
            for a, b in zip(embed(source), embed(named), strict=True):
                assert torch.equal(a, b)

    def test_the_guard_works_in_reverse(self, trained: Any) -> None:
        with registered_tag("test-tiny-quickgelu", "plain", file=str(trained[0]), quick_gelu=False):
            source = load_source("test-tiny-quickgelu", "plain")
            assert not source.info.quick_gelu
            assert any(note.startswith("activation: GELU in both towers") for note in source.notes)
            for a, b in zip(embed(source), embed(load_source("test-tiny", str(trained[0]))), strict=True):
                assert torch.equal(a, b)

    def test_keep_activation_keeps_the_architectures(self, trained: Any) -> None:
        with registered_tag("test-tiny", "quick", file=str(trained[0]), quick_gelu=True):
            source = load_source("test-tiny", "quick", keep_activation=True)
            assert not source.info.quick_gelu
            assert any("kept as test-tiny says" in note for note in source.notes)
            for a, b in zip(embed(source), embed(load_source("test-tiny", str(trained[0]))), strict=True):
                assert torch.equal(a, b)

    def test_a_tag_that_states_nothing_keeps_the_architectures(self, trained: Any) -> None:
        with registered_tag("test-tiny-quickgelu", "silent", file=str(trained[0])):
            source = load_source("test-tiny-quickgelu", "silent")
            assert source.info.quick_gelu
            assert not any(note.startswith("activation") for note in source.notes)

    def test_timm_towers_keep_their_activation(self, tmp_path: Path) -> None:
        state_dict = load_source("test-timm", "none").model.state_dict()
        save_file({k: v.contiguous() for k, v in state_dict.items()}, tmp_path / "timm.safetensors")
        with registered_tag("test-timm", "quick", file=str(tmp_path / "timm.safetensors"), quick_gelu=True):
            assert any("QuickGELU in the text tower" in note for note in load_source("test-timm", "quick").notes)

    def test_a_tag_and_its_preprocessing(self, trained: Any) -> None:
        with registered_tag("test-tiny", "only", file=str(trained[0])):
            source = load_source("test-tiny", "only")
            assert source.notes[0] == "weights: only (unknown)"
            assert (source.info.tag, source.info.source) == ("only", "pretrained")
            assert source.info.weights == file_sha256(trained[0])
            preprocess = source.preprocess
            assert (preprocess.mean, preprocess.interpolation, preprocess.resize_mode) == (
                (0.5, 0.4, 0.3),
                "bilinear",
                "squash",
            )
            expected = open_clip.create_model("test-tiny", pretrained="only").visual.preprocess_cfg
            assert image_transform_v2(PreprocessCfg(**expected), is_train=False) is not None
            assert expected["mean"] == preprocess.mean
            assert load_source("test-tiny", "ONLY").info.tag == "only"

    @pytest.mark.usefixtures("no_network")
    def test_the_default_tag_is_a_permissive_one_and_its_licence_travels(self, trained: Any, tmp_path: Path) -> None:
        for repository in ("timm/resnet50_clip.openai", "apple/DFN2B-CLIP-ViT-B-16"):
            cached_repository(tmp_path, repository, trained[0])
        with (
            registered_tag("test-tiny", "free", hf_hub="timm/resnet50_clip.openai/"),
            registered_tag("test-tiny", "bound", hf_hub="apple/DFN2B-CLIP-ViT-B-16/"),
        ):
            source = load_source("test-tiny", cache_dir=tmp_path)
            assert (source.info.tag, source.info.license) == ("free", "MIT")
            assert source.info.license_source == "https://github.com/openai/CLIP/blob/main/LICENSE"
            assert source.notes[0].startswith(
                "weights: free (MIT; its only tag with a permissive licence; no zero-shot"
            )
            assert not any(note.startswith("licence") for note in source.notes)
            named = load_source("test-tiny", "bound", cache_dir=tmp_path)
            assert (named.info.tag, named.info.license) == ("bound", "Apple-AMLR")
            [line] = [note for note in named.notes if note.startswith("licence")]
            assert "Apple-AMLR (research only, no commercial use), see https://" in line

    def test_no_restricted_weights_are_taken_unasked(self) -> None:
        with pytest.raises(
            ExportError, match=r"Apple-AMLR \(research only.*datacompdr.*pass --pretrained TAG"
        ) as error:
            load_source("MobileCLIP-B")
        assert_one_sentence(error)

    def test_own_weights_have_no_licence_here_and_the_demo_has_this_projects(self, trained: Any) -> None:
        assert load_source("test-tiny", str(trained[0])).info.license is None
        assert load_source("test-tiny", "none").info.license is None
        demo = load_source("demo").info
        assert (demo.license, demo.license_source) == ("MIT", "LICENSE of openclip-engines")
        assert load_source("demo", "none").info.license is None

    def test_unknown_tags_list_the_known_ones(self) -> None:
        with pytest.raises(
            ExportError, match=r"unknown tag 'laion2b_s34b_b79' .*did you mean laion2b_s34b_b79k.*its tags: openai,"
        ):
            load_source("ViT-B-32", "laion2b_s34b_b79")
        with pytest.raises(ExportError, match="has no pretrained weights for convnext_tiny"):
            load_source("convnext_tiny")
        with pytest.raises(ExportError, match="--pretrained is empty"):
            load_source("ViT-B-32", "")

    @pytest.mark.usefixtures("no_network")
    def test_no_network_is_one_quick_sentence(self) -> None:
        start = time.monotonic()
        for name, tag in (
            ("ViT-B-32", None),
            ("RN50", "openai"),
            ("hf-hub:laion/nothing", None),
            ("roberta-ViT-B-32", "none"),
        ):
            with pytest.raises(ExportError, match="the hub cannot be reached") as error:
                load_source(name, tag)
            assert_one_sentence(error)
            assert "HF_ENDPOINT" in str(error.value)
        assert time.monotonic() - start < 30

    @pytest.mark.usefixtures("no_network")
    def test_a_cached_download_needs_no_network(self, trained: Any, tmp_path: Path) -> None:
        snapshot = cached_repository(tmp_path / "cache", "someone/tiny", trained[0])
        source = load_source("hf-hub:someone/tiny", cache_dir=tmp_path / "cache")
        assert source.info.license == "unknown"
        assert source.notes[1].startswith("licence of the weights: unknown (what it allows is not known), see https://")
        (snapshot / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
        source = load_source("hf-hub:someone/tiny", cache_dir=tmp_path / "cache")
        assert (source.info.license, source.info.license_source) == (
            "Apache-2.0",
            "https://huggingface.co/someone/tiny",
        )
        assert source.notes == (
            "weights: open_clip_model.safetensors of someone/tiny on the Hugging Face hub (Apache-2.0)",
        )
        assert load_source("hf-hub:someone/tiny", "none", cache_dir=tmp_path / "cache").info.license is None
        assert (source.info.name, source.info.source) == ("hf-hub:someone/tiny", "hf-hub")
        assert source.info.weights == file_sha256(trained[0])
        assert source.preprocess.mean == (0.0, 0.0, 0.0)
        with registered_tag("test-tiny", "hub", hf_hub="someone/tiny/"):
            assert load_source("test-tiny", "hub", cache_dir=tmp_path / "cache").info.weights == source.info.weights


class TestNames:
    @pytest.mark.parametrize("name", ["ViT-B/32", "vit-b-32", "ViT-B-32 "])
    def test_near_names_are_suggested(self, name: str) -> None:
        with pytest.raises(ExportError, match=r"did you mean ViT-B-32\?") as error:
            load_source(name)
        assert_one_sentence(error)

    def test_misplaced_names_say_where_they_belong(self, tmp_path: Path) -> None:
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": TINY}))
        cases = {
            str(tmp_path): "pass local-dir:",
            "weights.safetensors": "the file as --pretrained weights.safetensors",
            "laion/some-repository": "named hf-hub:laion/some-repository",
            "hf-hub:": "wants a repository",
            "local-dir:": "wants a path",
        }
        for name, match in cases.items():
            with pytest.raises(ExportError, match=match):
                load_source(name)

    def test_a_folder_in_open_clips_format(self, trained: Any, tmp_path: Path) -> None:
        folder = tmp_path / "my-clip"
        folder.mkdir()
        preprocess = {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "resize_mode": "longest", "fill_color": 7}
        config = {"model_cfg": {**TINY, "quick_gelu": True}, "preprocess_cfg": preprocess}
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        with pytest.raises(ExportError, match="holds no weights"):
            load_source(f"local-dir:{folder}")
        save_file(trained[1], folder / "a.safetensors")
        save_file(trained[1], folder / "b.safetensors")
        with pytest.raises(ExportError, match=r"several checkpoints \(a.safetensors, b.safetensors\)"):
            load_source(f"local-dir:{folder}")
        (folder / "a.safetensors").rename(folder / "open_clip_model.safetensors")
        source = load_source(f"local-dir:{folder}")
        assert (source.info.name, source.info.source, source.info.quick_gelu) == (
            "local-dir:my-clip",
            "local-dir",
            True,
        )
        assert source.info.architecture == "test-tiny-quickgelu"
        assert (source.preprocess.resize_mode, source.preprocess.fill_color) == ("longest", 7)
        assert source.text_config == TEXT
        assert load_source(f"local-dir:{folder}", "none").info.weights == "random"
        with pytest.raises(ExportError, match="brings its own weights"):
            load_source(f"local-dir:{folder}", "openai")

    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ("{", "not readable JSON"),
            ("[]", "describes no model"),
            ('{"model_cfg": {"embed_dim": 4}}', "describes no model"),
            ('{"model_cfg": {"embed_dim": 16, "vision_cfg": {"layerz": 2}, "text_cfg": {}}}', "open_clip cannot build"),
        ],
    )
    def test_broken_folders(self, text: str, match: str, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=r"no open_clip_config\.json"):
            load_source(f"local-dir:{tmp_path}")
        (tmp_path / "open_clip_config.json").write_text(text)
        with pytest.raises(ExportError, match=match) as error:
            load_source(f"local-dir:{tmp_path}", "none")
        assert_one_sentence(error)
        with pytest.raises(ExportError, match="no such folder"):
            load_source(f"local-dir:{tmp_path}/missing")

    def test_the_tokenizer_can_be_left_out(self) -> None:
        assert load_source("test-tiny", "none", with_tokenizer=False).tokenizer is None


class TestHuggingFaceText:
    @pytest.mark.parametrize(
        "architecture", ["roberta-ViT-B-32", "xlm-roberta-base-ViT-B-32", "xlm-roberta-large-ViT-H-14"]
    )
    def test_text_towers_with_a_local_configuration(self, architecture: str, tmp_path: Path) -> None:
        name = offline_architecture(architecture, tmp_path, text_layers=1, vision_layers=1, vocab_size=1000)
        source = load_source(name, "none")
        assert source.tokenizer is not None
        ids = source.tokenizer(["a photo of a dog", "собака на снегу", ""])
        assert ids.shape == (3, 77)
        assert int(ids.max()) < 1000
        model: Any = source.model
        with torch.no_grad():
            embeds = model.encode_text(ids)
        assert embeds.isfinite().all()
        assert not torch.allclose(embeds[0], embeds[1], atol=1e-3)


def test_importing_the_module_imports_neither_torch_nor_open_clip() -> None:
    root = Path(__file__).parents[2]
    code = "import sys, exporter.source.loading; print({'torch', 'open_clip', 'transformers'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        check=True,
    )
    assert done.stdout.strip() == b"set()"
