"""The family of open_clip's ModifiedResNet towers (RN50 … RN50x64): batch norms are folded, attention pooling has one query."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from exporter.towers.blocks import QueryPool
from exporter.towers.units import ImageEncoder, Unit


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip.modified_resnet.ModifiedResNet``; None for other modules."""
    from open_clip.modified_resnet import ModifiedResNet

    if not isinstance(visual, ModifiedResNet):
        return None
    layers = (visual.layer1, visual.layer2, visual.layer3, visual.layer4)
    blocks: list[nn.Module] = [BottleneckUnit(block) for layer in layers for block in layer]
    return ImageEncoder(ConvolutionStem(visual), blocks, AttentionPoolHead(visual.attnpool))


def fold(convolution: nn.Conv2d, norm: nn.Module) -> nn.Conv2d:
    """Fold an inference-time batch norm into the convolution before it, in float64; returns the convolution.

    Raises:
        TypeError: `norm` is no batch norm.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        raise TypeError(f"expected a BatchNorm2d after the convolution, found {type(norm).__name__}")
    dtype = convolution.weight.dtype
    return fuse_conv_bn_eval(convolution.double(), norm.double()).to(dtype).requires_grad_(False)


class ConvolutionStem(Unit):
    """A stem of three convolutions and an average pool: normalized pixels (N, 3, H, W) to (N, C, H/4, W/4)."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        pairs = ((visual.conv1, visual.bn1), (visual.conv2, visual.bn2), (visual.conv3, visual.bn3))
        steps: list[nn.Module] = []
        for convolution, norm in pairs:
            steps += [fold(convolution, norm), nn.ReLU()]
        self.steps = nn.Sequential(*steps, visual.avgpool)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the stem."""
        y: torch.Tensor = self.steps(pixels.to(self.compute_dtype))
        return y.to(self.stream_dtype)


class BottleneckUnit(Unit):
    """One residual block of three convolutions; a stride is an average pool before the last convolution."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            fold(block.conv1, block.bn1),
            nn.ReLU(),
            fold(block.conv2, block.bn2),
            nn.ReLU(),
            block.avgpool,
            fold(block.conv3, block.bn3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if block.downsample is not None:
            pool, convolution, norm = block.downsample
            self.shortcut = nn.Sequential(pool, fold(convolution, norm))
        self.activation = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the block."""
        h = self.enter(x)
        y: torch.Tensor = self.activation(self.branch(h) + self.shortcut(h))
        return y.to(self.stream_dtype)


class AttentionPoolHead(Unit):
    """Attention pooling with one query, the mean of the feature map, because only its output is used: (N, C, H, W) to (N, D)."""

    def __init__(self, pool: Any) -> None:
        super().__init__()
        self.query = pool.q_proj
        self.pool = QueryPool(pool.k_proj, pool.v_proj, pool.c_proj, pool.num_heads)
        self.positions = nn.Parameter(pool.positional_embedding.detach(), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Pool and project."""
        x = self.enter(x).flatten(2).transpose(1, 2)
        x = torch.cat((x.mean(dim=1, keepdim=True), x), dim=1) + self.positions
        y: torch.Tensor = self.pool(self.query(x[:, :1]), x)
        return y.to(self.stream_dtype)
