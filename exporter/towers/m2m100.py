"""The family of NLLB's text towers (open_clip's NLLB-CLIP), which are encoders of Hugging Face's M2M100."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from exporter.towers.blocks import SelfAttention, packed_projections
from exporter.towers.roberta import key_mask, positions_of
from exporter.towers.units import Block, Residual, TextEncoder, Unit


def encoder_of_text(model: Any) -> TextEncoder | None:
    """Make the encoder of an ``open_clip.hf_model.HFTextEncoder`` around an M2M100 encoder; None for other modules."""
    from open_clip.hf_model import HFTextEncoder

    text = getattr(model, "text", None)
    if not isinstance(text, HFTextEncoder) or text.config.model_type != "m2m_100":
        return None
    if type(text.pooler).__name__ != "ClsPooler" or text.config.activation_function != "relu":
        return None
    blocks: list[nn.Module] = [_block(layer) for layer in text.transformer.layers]
    return TextEncoder(M2M100Stem(text.transformer, text.config.pad_token_id), blocks, FirstTokenHead(text))


def _block(layer: Any) -> Block:
    attention = layer.self_attn
    packed = packed_projections(attention, ("q_proj", "k_proj", "v_proj"))
    attend = SelfAttention(packed, attention.out_proj, attention.num_heads)
    mlp = nn.Sequential(layer.fc1, nn.ReLU(), layer.fc2)
    return Block(Residual(layer.self_attn_layer_norm, attend), Residual(layer.final_layer_norm, mlp))


class M2M100Stem(Unit):
    """A stem of scaled token embeddings and sinusoidal positions: ids (N, L) to the stream (N, L, C) and a key mask."""

    def __init__(self, encoder: Any, pad_id: int) -> None:
        super().__init__()
        self.tokens = nn.Parameter(encoder.embed_tokens.weight.detach(), requires_grad=False)
        self.scale = float(encoder.embed_tokens.embed_scale)
        self.positions = nn.Parameter(encoder.embed_positions.weights.detach(), requires_grad=False)
        self.pad_id = pad_id

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the ids."""
        x = F.embedding(ids, self.tokens) * self.scale + F.embedding(positions_of(ids, self.pad_id), self.positions)
        return x.to(self.stream_dtype), key_mask(ids, self.pad_id)


class FirstTokenHead(Unit):
    """A head of the final norm, the first token, and projection: (N, L, C) to (N, D)."""

    def __init__(self, text: Any) -> None:
        super().__init__()
        self.norm = text.transformer.layer_norm
        self.projection = text.proj

    def entry(self) -> nn.Module | None:
        """Return the final norm."""
        return self.norm

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        y: torch.Tensor = self.projection(self.enter(x[:, 0]))
        return y.to(self.stream_dtype)
