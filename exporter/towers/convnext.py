"""The family of timm's ConvNeXt image towers, with each stage's blocks and downsampling as units."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from exporter.towers.units import ImageEncoder, Unit, Whole


def encoder_of_image(visual: Any) -> ImageEncoder | None:
    """Make the encoder of an ``open_clip`` ``TimmModel`` around timm's ``ConvNeXt``; None for other modules."""
    from open_clip.timm_model import TimmModel
    from timm.models.convnext import ConvNeXt

    if not isinstance(visual, TimmModel) or not isinstance(visual.trunk, ConvNeXt):
        return None
    trunk = visual.trunk
    units: list[nn.Module] = []
    for stage in trunk.stages:
        if not isinstance(stage.downsample, nn.Identity):
            units.append(Whole(stage.downsample))
        units += [Whole(block) for block in stage.blocks]
    head = nn.Sequential(trunk.norm_pre, trunk.head, visual.head)
    return ImageEncoder(ConvNextStem(trunk.stem), units, Whole(head))


class ConvNextStem(Unit):
    """A stem of patch convolution and norm: normalized pixels (N, 3, H, W) to (N, C, H/4, W/4)."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.steps = stem

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Run the stem."""
        y: torch.Tensor = self.steps(pixels.to(self.compute_dtype))
        return y.to(self.stream_dtype)
