"""exporter.source.loading: checkpoint files of every format, of other architectures, truncated, and with code inside."""

from __future__ import annotations

import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_sources import TINY, assert_one_sentence, embed
from safetensors.torch import save_file
from torch import nn

from engines.files.checksums import file_sha256
from exporter.errors import ExportError
from exporter.source.loading import load_source
from exporter.weights.architectures import find_architectures, quiet_open_clip
from exporter.weights.checkpoint_reading import read_checkpoint
from exporter.weights.random_weights import uninitialized_parameters

pytestmark = pytest.mark.usefixtures("tiny_architectures")


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
