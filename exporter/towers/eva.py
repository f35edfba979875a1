"""The family of timm's EVA towers (EVA01-g, EVA02-B/L/E) and PE-Core: rotary embeddings by halves and packed projections."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.blocks import Rotary, Scale, SelfAttention, linear_of, pairs_to_halves
from exporter.towers.timm_tokens import TokenStem, attend_from_first_token, head_of, is_known_pooling
from exporter.towers.units import Block, ImageEncoder, Residual


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip`` ``TimmModel`` around timm's ``Eva`` with absolute positions; None for others."""
    from open_clip.timm_model import TimmModel
    from timm.models.eva import Eva

    if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, Eva) or not _is_known(visual.trunk):
        return None
    trunk = visual.trunk
    rotary = _rotary(trunk)
    blocks: list[nn.Module] = [_block(block, rotary) for block in trunk.blocks]
    attend_from_first_token(trunk, blocks)
    return ImageEncoder(TokenStem(trunk), blocks, head_of(trunk, visual.head))


def _is_known(trunk: Any) -> bool:
    """Whether the trunk uses only features that the modules below rebuild (every EVA checkpoint of open_clip's list does)."""
    from timm.layers.attention import AttentionRope
    from timm.models.eva import EvaAttention, EvaBlock, EvaBlockPostNorm

    plain = (
        is_known_pooling(trunk) and not trunk.rope_mixed and (trunk.rope is None or hasattr(trunk.rope, "feat_shape"))
    )
    return plain and all(
        type(block) in (EvaBlock, EvaBlockPostNorm)
        and type(block.attn) in (EvaAttention, AttentionRope)
        and getattr(block.attn, "num_kv_groups", 1) == 1
        and block.attn.num_prefix_tokens == trunk.num_prefix_tokens
        and getattr(block.attn, "gate", None) is None  # older versions of timm have no gate
        and isinstance(block.attn.q_norm, nn.Identity)
        for block in trunk.blocks
    )


def _rotary(trunk: Any) -> Rotary | None:
    """Make the trunk's rotary embedding by halves, with a row without rotation for the class token, if there is one."""
    if trunk.rope is None:
        return None
    sin, cos = trunk.rope.get_embed().detach().chunk(2, dim=-1)
    if not trunk.blocks[0].attn.rotate_half:
        # Interleaved tables have each angle twice in succession; tables by halves have it once in each half.
        sin, cos = (torch.cat((table[:, ::2], table[:, ::2]), dim=-1) for table in (sin, cos))
    prefix = trunk.num_prefix_tokens
    ones, zeros = torch.ones_like(cos[:prefix]), torch.zeros_like(sin[:prefix])
    return Rotary(torch.cat((ones, cos)), torch.cat((zeros, sin)))


def _attention(attention: Any, rotary: Rotary | None) -> SelfAttention:
    heads = attention.num_heads
    biases: tuple[torch.Tensor | None, ...]
    if attention.qkv is not None:
        q, k, v = attention.qkv.weight.detach().chunk(3)
        if hasattr(attention, "q_bias"):
            biases = (attention.q_bias, attention.k_bias, attention.v_bias)
        else:
            biases = (None,) * 3 if attention.qkv.bias is None else attention.qkv.bias.detach().chunk(3)
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
