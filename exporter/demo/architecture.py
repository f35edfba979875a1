"""The demo model's architecture: a small CLIP of open_clip with better initial position embeddings."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exporter.demo.training_data import IMAGE_SIZE

WAVE_SIZE = 0.2  # amplitude of the initial position embeddings; patch embeddings start at about 1

CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 64,
        "vision_cfg": {"image_size": IMAGE_SIZE, "patch_size": 8, "layers": 5, "width": 96, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {
        "size": IMAGE_SIZE,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "interpolation": "bicubic",
        "resize_mode": "shortest",
    },
}


def build_model(seed: int, config: Mapping[str, Any] = CONFIG) -> Any:
    """Build open_clip's CLIP of `config` under `seed`, with waves instead of noise as its initial image positions.

    Neighbouring patches then start with similar positions, from which "left" and "top" are learned quickly. The waves are those of
    Beyer, Zhai and Kolesnikov, "Better plain ViT baselines for ImageNet-1k" (2022); fixed there, they are trained further here.
    """
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    model = CLIP(**config["model_cfg"])
    positions = model.visual.positional_embedding
    with torch.no_grad():
        positions[1:] = wave_positions(math.isqrt(len(positions) - 1), positions.shape[1])
    return model


def wave_positions(side: int, width: int) -> Tensor:
    """Make waves of half a period to two periods along columns and rows: (side * side, width), rows first, zero on average."""
    frequency = math.pi / side * torch.linspace(1, 4, width // 4)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.stack([column.flatten(), row.flatten()])[..., None] * frequency
    waves = torch.cat([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()], dim=-1)
    return WAVE_SIZE * (waves - waves.mean(dim=0))


def encode_text(model: Any, ids: Tensor) -> Tensor:
    """Compute text embeddings (N, D), not normalized, of ids (N, L).

    L may be below the context length: the tower is causal, so tokens after a caption's end cannot change its embedding.
    """
    length = ids.shape[1]
    hidden = model.token_embedding(ids) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    last: Tensor = hidden[torch.arange(len(ids)), ids.argmax(dim=-1)]
    embeddings: Tensor = last @ model.text_projection
    return embeddings
