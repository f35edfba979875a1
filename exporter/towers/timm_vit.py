"""The family of timm's ``VisionTransformer`` towers: SigLIP and SigLIP2, MobileCLIP-B and -L-14, ViTamin, vit_medium_gap."""

from __future__ import annotations

from typing import Any

from torch import nn

from exporter.towers.blocks import Scale, SelfAttention, linear_of
from exporter.towers.timm_tokens import TokenStem, attend_from_first_token, head_of, is_known_pooling
from exporter.towers.units import Block, ImageEncoder, Residual


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip`` ``TimmModel`` around timm's ``VisionTransformer``; None for others."""
    from open_clip.timm_model import TimmModel
    from timm.models.vision_transformer import VisionTransformer

    if not isinstance(visual, TimmModel) or type(visual.trunk) is not VisionTransformer:
        return None
    trunk = visual.trunk
    if not _is_known(trunk):
        return None
    blocks: list[nn.Module] = [_block(block) for block in trunk.blocks]
    attend_from_first_token(trunk, blocks)
    return ImageEncoder(TokenStem(trunk), blocks, head_of(trunk, visual.head))


def _is_known(trunk: Any) -> bool:
    """Whether the trunk has only features that the units rebuild."""
    from timm.layers.attention import Attention
    from timm.models.vision_transformer import Block as TimmBlock

    return is_known_pooling(trunk) and all(
        type(block) is TimmBlock
        and type(block.attn) is Attention
        and getattr(block.attn, "gate", None) is None  # older versions of timm have no gate
        and isinstance(block.attn.q_norm, nn.Identity)
        and isinstance(block.attn.k_norm, nn.Identity)
        for block in trunk.blocks
    )


def _block(block: Any) -> Block:
    attention = block.attn
    inner_norm = None if isinstance(attention.norm, nn.Identity) else attention.norm
    qkv = linear_of(attention.qkv.weight, attention.qkv.bias)
    attend = SelfAttention(qkv, attention.proj, attention.num_heads, inner_norm=inner_norm)
    scales = [None if isinstance(scale, nn.Identity) else Scale(scale.gamma) for scale in (block.ls1, block.ls2)]
    return Block(Residual(block.norm1, attend, scales[0]), Residual(block.norm2, block.mlp, scales[1]))
