"""The modules that are traced: pixels or token ids in, L2-normalized float32 embeddings out.

Inputs and outputs by name: ``pixels`` to ``image_embeds``, ``ids`` to ``text_embeds``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engines.manifest import Preprocess
from exporter.options.export_options import ImageInputDtype
from exporter.towers.blocks import L2Normalize
from exporter.towers.families import IMAGE_FAMILIES, TEXT_FAMILIES
from exporter.towers.units import Encoder, ImageEncoder, TextEncoder, Unit, Whole


class TowerModule(nn.Module):
    """Base of the two towers: the names of its tensors, and its encoder of named units."""

    input_name: str
    output_name: str

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.unit_length: nn.Module = L2Normalize()

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and normalize: (N, D) float32, unit length."""
        y: torch.Tensor = self.unit_length(self.encoder(x))
        return y


class NormalizePixels(nn.Module):
    """uint8 (N, H, W, 3) to normalized float32 (N, 3, H, W): `mean`, `std` of RGB from 0 to 1, `size` (height, width)."""

    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.mean, self.std, self.size = preprocess.mean, preprocess.std, preprocess.size
        # (x / 255 - mean) / std as one multiplication and one addition, in float32 whatever the tower's precision.
        std, mean = torch.tensor(preprocess.std), torch.tensor(preprocess.mean)
        self.register_buffer("gain", (1.0 / (255.0 * std.double())).float().reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean.double() / std.double()).float().reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize."""
        # Cast first, then permute: TensorRT lets a uint8 input feed nothing but a cast.
        return pixels.to(torch.float32).permute(0, 3, 1, 2) * self.gain + self.shift


class ImageTower(TowerModule):
    """uint8 (N, H, W, 3) pixels after resize and crop, or float32 (N, 3, H, W) already normalized, to embeddings (N, D)."""

    input_name = "pixels"
    output_name = "image_embeds"

    def __init__(self, encoder: Encoder, preprocess: Preprocess, image_input: ImageInputDtype = "uint8") -> None:
        super().__init__(encoder)
        self.image_input = image_input
        self.normalize: nn.Module = NormalizePixels(preprocess) if image_input == "uint8" else nn.Identity()

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embed a batch of images."""
        return self.embed(self.normalize(pixels))


class TextTower(TowerModule):
    """int32 ids (N, L) to embeddings (N, D)."""

    input_name = "ids"
    output_name = "text_embeds"

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed a batch of texts."""
        return self.embed(ids)


class TextAsIs(Unit):
    """A text tower of no known family as the head of an encoder without blocks: traced as it is, in one dtype."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = model.text if hasattr(model, "text") else _TextParts(model)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Run the tower; of several outputs the first is the embedding."""
        y = self.text(ids.long())
        return (y[0] if isinstance(y, (tuple, list)) else y).to(self.stream_dtype)


class _TextParts(nn.Module):
    """The text half of a ``CLIP`` that holds its parts itself, without the image half's parameters."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        parts = {name: child for name, child in model.named_children() if name != "visual"}
        self.clip = object.__new__(type(model))
        nn.Module.__init__(self.clip)
        for name, child in parts.items():
            self.clip.add_module(name, child)
        for name, parameter in model.named_parameters(recurse=False):
            self.clip.register_parameter(name, parameter)
        for name, buffer in model.named_buffers(recurse=False):
            self.clip.register_buffer(name, buffer, persistent=False)
        for name in ("text_pool_type", "text_eos_id"):
            setattr(self.clip, name, getattr(model, name, None))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Encode ids without normalization."""
        y: torch.Tensor = self.clip.encode_text(ids)
        return y


class _IdsThrough(nn.Module):
    """A stem that hands the ids on: for text towers traced as they are."""

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        """No embedding, no mask."""
        return ids, None


def image_tower(model: Any, preprocess: Preprocess, image_input: ImageInputDtype = "uint8") -> ImageTower:
    """The image tower of an open_clip model, rebuilt from its parameters; parts of `model.visual` may be consumed."""
    visual = model.visual
    for family in IMAGE_FAMILIES:
        encoder = family(visual)
        if encoder is not None:
            return ImageTower(encoder.eval(), preprocess, image_input)
    return ImageTower(ImageEncoder(nn.Identity(), [], Whole(visual)).eval(), preprocess, image_input)


def text_tower(model: Any) -> TextTower:
    """The text tower of an open_clip model, rebuilt from its parameters; parts of the model may be consumed."""
    for family in TEXT_FAMILIES:
        encoder = family(model)
        if encoder is not None:
            return TextTower(encoder.eval())
    return TextTower(TextEncoder(_IdsThrough(), [], TextAsIs(model)).eval())


def text_is_fixed_length(tower: TextTower) -> bool:
    """Whether the tower can only be traced at one length (no family knows it)."""
    return isinstance(tower.encoder.head, TextAsIs)
