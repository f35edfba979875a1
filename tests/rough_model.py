"""A small CLIP that exports in seconds, and what makes its float32 rough: features that nearly vanish beside a large constant."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

TINY = "tiny-for-the-gate"
_CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}


def register_tiny(folder: Path) -> str:
    """Register the architecture with open_clip and return its name."""
    import open_clip

    path = folder / f"{TINY}.json"
    path.write_text(json.dumps(_CONFIG), encoding="utf-8")
    open_clip.add_model_config(path)
    return TINY


def save_tiny(path: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A checkpoint of the architecture with random weights, after `change` of its tensors."""
    from safetensors.torch import save_file

    from exporter.source.loading import load_source

    weights = dict(load_source(TINY, "none", with_tokenizer=False).model.state_dict())
    change(weights)
    save_file({name: tensor.contiguous().clone() for name, tensor in weights.items()}, path)
    return path


def rough_text_tower(weights: dict[str, torch.Tensor], constant: float, first: int = 0) -> None:
    """Add a constant to positions: the layer norms subtract it, and with it most digits of what the caption says.

    The tower is causal, so that captions which end before the position `first` are as exact as ever.
    """
    weights["positional_embedding"][first:] += constant
