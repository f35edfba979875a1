"""The family of timm's EVA towers (EVA01-g, EVA02-B/L/E): rotary embeddings by halves, packed projections, first-token pooling."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.blocks import FirstTokenAttention, Rotary, Scale, SelfAttention, linear_of, pairs_to_halves
from exporter.towers.units import Block, ImageEncoder, Residual, Unit


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip`` ``TimmModel`` around timm's ``Eva`` with absolute positions; None for others."""
    from open_clip.timm_model import TimmModel
    from timm.models.eva import Eva

    if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, Eva) or not _is_known(visual.trunk):
        return None
    trunk = visual.trunk
    rotary = _rotary(trunk)
    blocks: list[nn.Module] = [_block(block, rotary) for block in trunk.blocks]
    last = blocks[-1]
    if trunk.global_pool == "token" and isinstance(last, Block) and isinstance(last.attention, Residual):
        full = last.attention.body
        if isinstance(full, SelfAttention):
            last.attention.body = FirstTokenAttention(full)
    return ImageEncoder(EvaStem(trunk), blocks, EvaHead(trunk, visual.head))


def _is_known(trunk: Any) -> bool:
    """Whether the trunk uses only features that the modules below rebuild (every EVA checkpoint of open_clip's list does)."""
    from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm

    plain = (
        trunk.global_pool in ("token", "avg")
        and trunk.attn_pool is None
        and trunk.num_prefix_tokens == 1
        and trunk.cls_token is not None
        and not trunk.no_embed_class
        and trunk.pos_embed is not None
        and not trunk.dynamic_img_size
        and not trunk.rope_mixed
        and (trunk.rope is None or hasattr(trunk.rope, "feat_shape"))
    )
    return plain and all(
        type(block) in (EvaBlock, EvaBlockPostNorm)
        and type(block.attn) is EvaAttention
        and getattr(block.attn, "gate", None) is None  # older versions of timm have no gate
        and isinstance(block.attn.q_norm, nn.Identity)
        for block in trunk.blocks
    )


def _rotary(trunk: Any) -> Rotary | None:
    """Make the trunk's rotary embedding by halves, with a row without rotation for the class token."""
    if trunk.rope is None:
        return None
    sin, cos = trunk.rope.get_embed().detach().chunk(2, dim=-1)
    if not trunk.blocks[0].attn.rotate_half:
        # Interleaved tables have each angle twice in succession; tables by halves have it once in each half.
        sin, cos = (torch.cat((table[:, ::2], table[:, ::2]), dim=-1) for table in (sin, cos))
    ones, zeros = torch.ones_like(cos[:1]), torch.zeros_like(sin[:1])
    return Rotary(torch.cat((ones, cos)), torch.cat((zeros, sin)))


def _attention(attention: Any, rotary: Rotary | None) -> SelfAttention:
    heads = attention.num_heads
    if attention.qkv is not None:
        q, k, v = attention.qkv.weight.detach().chunk(3)
        biases = (attention.q_bias, attention.k_bias, attention.v_bias)
    else:
        projections = (attention.q_proj, attention.k_proj, attention.v_proj)
        q, k, v = (projection.weight.detach() for projection in projections)
        biases = tuple(projection.bias for projection in projections)
    rows = attention.head_dim * heads
    packed = torch.empty(3 * rows, q.shape[1], dtype=q.dtype)
    bias = None
    if any(part is not None for part in biases):
        bias = torch.cat([torch.zeros(rows, dtype=q.dtype) if part is None else part.detach() for part in biases])
    reorder = rotary is not None and not attention.rotate_half
    for i, part in enumerate((q, k, v)):
        ordered = pairs_to_halves(part, heads) if reorder and i < 2 else part
        packed[i * rows : (i + 1) * rows] = ordered
        if bias is not None and reorder and i < 2:
            bias[i * rows : (i + 1) * rows] = pairs_to_halves(bias[i * rows : (i + 1) * rows], heads)
    inner_norm = None if isinstance(attention.norm, nn.Identity) else attention.norm
    _release(attention)
    return SelfAttention(linear_of(packed, bias), attention.proj, heads, rotary=rotary, inner_norm=inner_norm)


def _release(attention: Any) -> None:
    """Release the unpacked weights, because the packed copy replaces them, block by block, so that memory does not double."""
    for name in ("qkv", "q_proj", "k_proj", "v_proj"):
        setattr(attention, name, None)


def _block(block: Any, rotary: Rotary | None) -> Block:
    from timm.models.eva import EvaBlockPostNorm

    attend = _attention(block.attn, rotary)
    if isinstance(block, EvaBlockPostNorm):
        return Block(Residual(None, attend, block.norm1), Residual(None, block.mlp, block.norm2))
    scales = [Scale(gamma) if gamma is not None else None for gamma in (block.gamma_1, block.gamma_2)]
    return Block(Residual(block.norm1, attend, scales[0]), Residual(block.norm2, block.mlp, scales[1]))


class EvaStem(Unit):
    """A stem of patches, class token and positions: normalized pixels (N, 3, H, W) to the stream (N, 1 + P, C)."""

    def __init__(self, trunk: Any) -> None:
        super().__init__()
        self.patches = trunk.patch_embed.proj
        self.patch_norm = trunk.patch_embed.norm
        positions = trunk.pos_embed.detach()[0]
        self.class_token = nn.Parameter(trunk.cls_token.detach() + positions[:1], requires_grad=False)
        self.positions = nn.Parameter(positions[1:], requires_grad=False)
        self.norm = trunk.norm_pre

    @property
    def length(self) -> int:
        """The number of tokens of the stream."""
        return int(self.positions.shape[0]) + 1

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed the patches."""
        return self.assemble(self.patches(pixels.to(self.compute_dtype)).flatten(2).transpose(1, 2))

    def assemble(self, x: torch.Tensor) -> torch.Tensor:
        """Add norm, positions and class token to the patches' projection (N, P, C)."""
        x = self.patch_norm(x) + self.positions
        x = torch.cat((self.class_token.expand(x.shape[0], -1, -1), x), dim=1)
        return self.norm(x).to(self.stream_dtype)


class EvaHead(Unit):
    """A head of final norm, pooling and projection: (N, L, C) to (N, D)."""

    def __init__(self, trunk: Any, head: nn.Module) -> None:
        super().__init__()
        self.mean = trunk.global_pool == "avg"
        self.norm, self.pooled_norm = trunk.norm, trunk.fc_norm
        self.projection = nn.Sequential(trunk.head, *head.children())

    def entry(self) -> nn.Module | None:
        """The final norm."""
        return self.norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        pooled = self.enter(x)[:, 1:].mean(dim=1) if self.mean else self.enter(x[:, 0])
        y: torch.Tensor = self.projection(self.pooled_norm(pooled))
        return y.to(self.stream_dtype)
