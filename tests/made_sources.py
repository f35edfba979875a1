"""Sources of tiny architectures: their configurations, tags with local weights, and repositories in a cache."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import pretrained as open_clip_pretrained

from exporter.errors import ExportError
from exporter.source.loading import Source

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
CONFIGS = {
    "test-tiny": TINY,
    "test-tiny-quickgelu": {**TINY, "quick_gelu": True},
    "test-wider": WIDER,
    "test-resnet": RESNET,
    "test-timm": TIMM,
    "test-bias": BIASED,
}


def register_sources(folder: Path) -> None:
    """Make `CONFIGS` known to open_clip.

    Args:
        folder: where their files go.
    """
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


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
