"""exporter.source.loading: tags: the activation guard, licences, preprocessing, and downloads with and without a network."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from made_sources import assert_one_sentence, cached_repository, embed, registered_tag
from open_clip.transform import PreprocessCfg, image_transform_v2
from safetensors.torch import save_file

from engines.files.checksums import file_sha256
from exporter.errors import ExportError
from exporter.source.loading import load_source

pytestmark = pytest.mark.usefixtures("tiny_architectures")


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
    def test_what_forbids_a_download_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setenv("HF_ENDPOINT", "hub.example")
        with pytest.raises(ExportError, match=r"HF_ENDPOINT is 'hub\.example', which is no address") as error:
            load_source("ViT-B-32", "openai")
        assert "mirror" not in str(error.value)  # which would be the same variable again
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(ExportError, match="HF_HUB_OFFLINE is set and the local cache does not have it"):
            load_source("ViT-B-32", "openai")

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
