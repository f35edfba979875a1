"""The demo model's architecture: open_clip's CLIP, small, with better first positions."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from exporter.demo.training_data import IMAGE_SIZE

WAVE_SIZE = 0.2  # amplitude of the first position embeddings; patches start at about 1

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
    """open_clip's CLIP of `config` under `seed`, its image positions starting as waves instead of noise.

    Neighbouring patches then start with similar positions, from which "left" and "top" are a step away. The fixed waves
    of Beyer, Zhai and Kolesnikov, "Better plain ViT baselines for ImageNet-1k" (2022), are here only the start.
    """
    from open_clip.model import CLIP

    torch.manual_seed(seed)
    model = CLIP(**config["model_cfg"])
    positions = model.visual.positional_embedding
    with torch.no_grad():
        positions[1:] = wave_positions(math.isqrt(len(positions) - 1), positions.shape[1])
    return model


def wave_positions(side: int, width: int) -> Tensor:
    """Waves of half a period to two along columns and rows: (side * side, width), rows first, zero on average."""
    frequency = math.pi / side * torch.linspace(1, 4, width // 4)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    angles = torch.stack([column.flatten(), row.flatten()])[..., None] * frequency
    waves = torch.cat([angles[0].sin(), angles[0].cos(), angles[1].sin(), angles[1].cos()], dim=-1)
    return WAVE_SIZE * (waves - waves.mean(dim=0))


def encode_text(model: Any, ids: Tensor) -> Tensor:
    """Text embeddings (N, D), not normalized, of ids (N, L).

    L may be below the context length: the tower is causal, so what follows a caption's end cannot change its embedding.
    """
    length = ids.shape[1]
    hidden = model.token_embedding(ids) + model.positional_embedding[:length]
    hidden = model.ln_final(model.transformer(hidden, attn_mask=model.attn_mask[:length, :length]))
    last: Tensor = hidden[torch.arange(len(ids)), ids.argmax(dim=-1)]
    embeddings: Tensor = last @ model.text_projection
    return embeddings
