"""exporter.source.loading: names of models, folders in open_clip's format, and Hugging Face text towers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from made_sources import TEXT, TINY, assert_one_sentence
from safetensors.torch import save_file

from benchmarks.workloads.offline_text_towers import offline_architecture
from exporter.errors import ExportError
from exporter.source.loading import load_source

pytestmark = pytest.mark.usefixtures("tiny_architectures")


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
        name = offline_architecture(architecture, tmp_path, text_layers=1, vision={"layers": 1}, vocab_size=1000)
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
