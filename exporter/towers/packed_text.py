"""The text tower over captions laid end to end, in which no padding is embedded, multiplied or attended to.

It is exact for causal towers that pool the end-of-text token, as CLIP's do: tokens up to that one do not attend to later tokens of
the row, and a packed caption's last token is the pooled token of the padded row. The modules hold the padded tower's parameters.

Shapes: T tokens of all captions together, N captions, C width, D size of an embedding.
"""

from __future__ import annotations

import torch
from torch import nn

from engines.manifest import TextLength
from exporter.towers.blocks import L2Normalize, SelfAttention
from exporter.towers.clip_transformer import TextHead, TextStem
from exporter.towers.modules import TextTower
from exporter.towers.units import Block, Residual, Unit
from kernels import reference
from kernels.attention import LARGEST_HEAD, SMALLEST_HEAD


class PackedStem(Unit):
    """A stem of token and position embeddings: ids (T,) to the stream (T, C); positions count from each caption's start."""

    def __init__(self, padded: TextStem) -> None:
        super().__init__()
        self.tokens, self.positions = padded.tokens, padded.positions
        self.plan_dtypes(padded.compute_dtype, padded.stream_dtype)

    def forward(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Embed the ids; `starts` is int32 (N + 1,)."""
        token = torch.arange(ids.shape[0], dtype=torch.int32, device=ids.device)
        caption = torch.searchsorted(starts, token, right=True) - 1
        x = self.tokens(ids) + self.positions[token - starts[caption]]
        return x.to(self.stream_dtype)


class PackedAttention(nn.Module):
    """Causal self-attention within each caption, in plain PyTorch with padding inside: (T, C) to (T, C).

    `kernels.swap` replaces it by a kernel without padding. `longest` is the largest number of tokens of a caption.
    """

    def __init__(self, padded: SelfAttention, longest: int) -> None:
        super().__init__()
        self.qkv, self.out, self.inner_norm = padded.qkv, padded.out, padded.inner_norm
        self.heads, self.head_dim, self.longest = padded.heads, padded.head_dim, longest

    def forward(self, x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Attend within each caption."""
        y = reference.packed_attention(self.qkv(x), self.heads, starts, self.longest, causal=True)
        return self.out(y if self.inner_norm is None else self.inner_norm(y))


class PackedHead(Unit):
    """A head of each caption's last token, final norm and projection: (T, C) to (N, D)."""

    def __init__(self, padded: TextHead) -> None:
        super().__init__()
        self.norm, self.projection = padded.norm, padded.projection
        self.plan_dtypes(padded.compute_dtype, padded.stream_dtype)

    def entry(self) -> nn.Module | None:
        """The final norm."""
        return self.norm

    def forward(self, x: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        y: torch.Tensor = self.projection(self.enter(x.index_select(0, starts[1:] - 1)))
        return y.to(self.stream_dtype)


class PackedEncoder(nn.Module):
    """Stem, blocks and head over packed captions; the blocks take `starts` where padded ones take a mask."""

    def __init__(self, stem: PackedStem, blocks: list[nn.Module], head: PackedHead) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), head

    def forward(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Encode ids (T,) to (N, D)."""
        x = self.stem(ids, starts)
        for block in self.blocks:
            x = block(x, starts)
        y: torch.Tensor = self.head(x, starts)
        return y


class PackedTextTower(nn.Module):
    """The packed text tower: int32 ids (T,) and starts (N + 1,) to embeddings (N, D), float32 of unit length.

    Caption i has the ids from ``starts[i]`` to ``starts[i + 1]``, at least one and at most `longest`, the last of which is its end
    of text. `starts` begins with 0 and ends with T. These conditions are not checked.
    """

    output_name = "text_embeds"

    def __init__(self, encoder: PackedEncoder, longest: int) -> None:
        super().__init__()
        self.encoder, self.longest = encoder, longest
        self.unit_length: nn.Module = L2Normalize()

    def forward(self, ids: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """Embed the captions."""
        y: torch.Tensor = self.unit_length(self.encoder(ids, starts))
        return y


def packed_text_tower(tower: TextTower, length: TextLength) -> PackedTextTower | None:
    """Make the packed form of a text tower, over the same parameters and in the same dtypes.

    Args:
        tower: the tower as it was built, its precision already applied and no module in it swapped.
        length: the tower's length rule.

    Returns:
        The packed tower; None where its embeddings would differ, because the tower is not causal, masks padding or pools another
        token than the first of the highest id, and where its blocks or its family cannot be packed.
    """
    stem, head = tower.encoder.stem, tower.encoder.head
    if not isinstance(stem, TextStem) or not isinstance(head, TextHead):
        return None
    if stem.has_class_token or stem.pad_id is not None or not stem.causal:
        return None
    if head.pool != "argmax" or length.keep != "end" or length.extra:
        return None
    blocks = [_packed_block(block, length.max) for block in tower.encoder.blocks]
    if not all(isinstance(block, Block) for block in blocks):
        return None
    known: list[nn.Module] = [block for block in blocks if block is not None]
    return PackedTextTower(PackedEncoder(PackedStem(stem), known, PackedHead(head)), length.max).eval()


def _packed_block(block: nn.Module, longest: int) -> Block | None:
    """Make a packed block over the same layers; None for a block that cannot be packed."""
    if not isinstance(block, Block) or not isinstance(block.attention, Residual) or not isinstance(block.mlp, Residual):
        return None
    body = block.attention.body
    if not isinstance(body, SelfAttention) or body.rotary is not None:
        return None
    if not SMALLEST_HEAD <= body.head_dim <= LARGEST_HEAD:
        return None
    attention = Residual(block.attention.norm, PackedAttention(body, longest), block.attention.after)
    mlp = Residual(block.mlp.norm, block.mlp.body, block.mlp.after)
    for packed, padded in ((attention, block.attention), (mlp, block.mlp)):
        packed.plan_dtypes(padded.compute_dtype, padded.stream_dtype)
    return Block(attention, mlp)
