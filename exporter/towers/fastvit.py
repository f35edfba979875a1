"""The family of timm's FastViT towers (MobileCLIP-S1 and -S2, MobileCLIP2-S0 to -S4): one convolution for each group of branches.

FastViT is trained with parallel branches of convolutions and batch norms, which add up to one convolution (RepMixer and MobileOne,
arXiv:2303.14189). They are merged here, in float64, because eager's float32 sums of the merged weights lose digits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.blocks import SelfAttention, linear_of
from exporter.towers.timm_tokens import fold_batch_norms
from exporter.towers.units import ImageEncoder, Unit


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip`` ``TimmModel`` around timm's ``FastVit``; None for others."""
    from open_clip.timm_model import TimmModel
    from timm.models.fastvit import FastVit

    if not isinstance(visual, TimmModel) or type(visual.trunk) is not FastVit or visual.trunk.fork_feat:
        return None
    merged = any(getattr(module, "reparam_conv", None) is not None for module in visual.trunk.modules())
    if merged or not all(_is_known(module) for module in visual.trunk.modules()):
        return None
    trunk = merge_branches(visual.trunk)
    blocks: list[nn.Module] = []
    for stage in trunk.stages:
        parts = (stage.downsample, stage.pos_emb, *stage.blocks)
        blocks += [FastVitUnit(part) for part in parts if not isinstance(part, nn.Identity)]
    return ImageEncoder(FastVitUnit(trunk.stem), blocks, FastVitHead(trunk, visual.head))


def _is_known(module: nn.Module) -> bool:
    """Whether a module is no attention, or one whose norm `MapAttention` has a place for."""
    from timm.layers.norm import LayerNorm2d
    from timm.models.fastvit import Attention, AttentionBlock

    if not isinstance(module, AttentionBlock):
        return True
    return type(module.token_mixer) is Attention and type(module.norm) in (nn.BatchNorm2d, LayerNorm2d)


@torch.no_grad()
def merge_branches(trunk: Any) -> Any:
    """Merge a FastViT's branches and batch norms into its convolutions, in place; returns the trunk."""
    from timm.models.fastvit import AttentionBlock
    from timm.utils.model import reparameterize_model

    dtype = next(trunk.parameters()).dtype
    trunk = fold_batch_norms(reparameterize_model(trunk.double(), inplace=True))
    for module in trunk.modules():
        if isinstance(module, AttentionBlock):
            module.token_mixer = MapAttention(module.token_mixer, module.norm)
            module.norm = nn.Identity()
    return trunk.to(dtype).eval()


class MapAttention(nn.Module):
    """A norm and self-attention over the pixels of a feature map: (N, C, H, W) to (N, C, H, W).

    A batch norm is an affine map of each channel, and is folded into the projection to queries, keys and values. A layer norm over
    the channels (MobileCLIP2-S3 and -S4) follows the change to tokens (N, H · W, C), where it needs no transposition of its own.
    """

    def __init__(self, attention: Any, norm: Any) -> None:
        super().__init__()
        weight, bias = attention.qkv.weight, attention.qkv.bias
        self.norm: nn.Module = nn.Identity()
        if isinstance(norm, nn.BatchNorm2d):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            gain = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            shift = weight @ (norm.bias - norm.running_mean * gain)
            weight, bias = weight * gain, shift if bias is None else bias + shift
        else:
            self.norm = nn.LayerNorm(norm.normalized_shape, norm.eps)
            self.norm.weight, self.norm.bias = norm.weight, norm.bias
        self.attend = SelfAttention(linear_of(weight, bias), attention.proj, attention.num_heads)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Attend."""
        y: torch.Tensor = self.attend(self.norm(x.flatten(2).transpose(1, 2)))
        return y.transpose(1, 2).reshape(-1, x.shape[1], x.shape[2], x.shape[3])


class FastVitUnit(Unit):
    """One part of the tower that reads and writes a feature map: stem, downsampling, positions, or a block."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the part."""
        y: torch.Tensor = self.module(self.enter(x))
        return y.to(self.stream_dtype)


class FastVitHead(Unit):
    """The last convolution, the mean over pixels, and projections: (N, C, H, W) to (N, D)."""

    def __init__(self, trunk: Any, head: nn.Module) -> None:
        super().__init__()
        self.convolution, self.pool = trunk.final_conv, trunk.head
        self.projection = nn.Sequential(*head.children())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        y: torch.Tensor = self.projection(self.pool(self.convolution(self.enter(x))))
        return y.to(self.stream_dtype)
