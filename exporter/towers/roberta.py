"""The family of RoBERTa and XLM-RoBERTa text towers of open_clip (Hugging Face weights), rebuilt from the same parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.blocks import SelfAttention, packed_projections
from exporter.towers.units import Block, PostNormResidual, TextEncoder, Unit

_POOLERS = ("MeanPooler", "ClsLastHiddenStatePooler")


def encoder_of_text(model: Any) -> TextEncoder | None:
    """Make the encoder of an ``open_clip.hf_model.HFTextEncoder`` around RoBERTa or XLM-RoBERTa; None for other modules."""
    from open_clip.hf_model import HFTextEncoder

    text = getattr(model, "text", None)
    if not isinstance(text, HFTextEncoder) or text.config.model_type not in ("roberta", "xlm-roberta"):
        return None
    config = text.config
    if type(text.pooler).__name__ not in _POOLERS or config.hidden_act != "gelu":
        return None
    if getattr(config, "position_embedding_type", "absolute") != "absolute" or getattr(config, "is_decoder", False):
        return None
    blocks: list[nn.Module] = [_block(layer) for layer in text.transformer.encoder.layer]
    mean = type(text.pooler).__name__ == "MeanPooler"
    return TextEncoder(BertStem(text.transformer.embeddings, config.pad_token_id), blocks, BertHead(text, mean))


def _block(layer: Any) -> Block:
    attention, output = layer.attention.self, layer.attention.output
    packed = packed_projections(attention, ("query", "key", "value"))
    attend = SelfAttention(packed, output.dense, attention.num_attention_heads)
    mlp = nn.Sequential(layer.intermediate.dense, nn.GELU(), layer.output.dense)
    return Block(PostNormResidual(attend, output.LayerNorm), PostNormResidual(mlp, layer.output.LayerNorm))


def positions_of(ids: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Compute fairseq's positions (N, L) int32: they count the tokens that are not padding from ``pad_id + 1`` on."""
    ones = (ids != pad_id).to(torch.int32)
    return ones.cumsum(dim=1, dtype=torch.int32) * ones + pad_id


def key_mask(ids: torch.Tensor, pad_id: int) -> torch.Tensor:
    """Compute the mask (N, 1, L, L), True for keys that are not padding; every query has it.

    ONNX Runtime's Attention broadcasts a mask over batch and heads, not over queries.
    """
    return (ids != pad_id)[:, None, None, :].expand(-1, 1, ids.shape[1], -1)


class BertStem(Unit):
    """A stem of token, position and type embeddings with a norm: ids (N, L) to the stream (N, L, C) and a key mask (N, 1, L, L)."""

    def __init__(self, embeddings: Any, pad_id: int) -> None:
        super().__init__()
        self.tokens = embeddings.word_embeddings
        self.positions = embeddings.position_embeddings
        self.token_type = nn.Parameter(embeddings.token_type_embeddings.weight.detach()[0], requires_grad=False)
        self.norm = embeddings.LayerNorm
        self.pad_id = pad_id

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embed the ids."""
        x = self.tokens(ids) + self.token_type + self.positions(positions_of(ids, self.pad_id))
        return self.norm(x).to(self.stream_dtype), key_mask(ids, self.pad_id)


class BertHead(Unit):
    """A head of the mean over tokens that are not padding (or the first token), and projection: (N, L, C) to (N, D)."""

    def __init__(self, text: Any, mean: bool) -> None:
        super().__init__()
        self.mean, self.pad_id = mean, text.config.pad_token_id
        self.projection = text.proj

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        x = self.enter(x)
        if self.mean:
            keys = (ids != self.pad_id).unsqueeze(-1).to(x.dtype)
            x = (x * keys).sum(dim=1) / keys.sum(dim=1)
        else:
            x = x[:, 0]
        y: torch.Tensor = self.projection(x)
        return y.to(self.stream_dtype)
