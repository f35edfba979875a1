"""The tower modules that are traced, from pixels or token ids to L2-normalized float32 embeddings.

The names of inputs and outputs are ``pixels`` and ``image_embeds``, ``ids`` and ``text_embeds``.
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
    """The base class of the two towers, with the names of its tensors, and its encoder of named units."""

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
    """Normalization of uint8 (N, H, W, 3) to float32 (N, 3, H, W): `mean`, `std` of RGB from 0 to 1, `size` (height, width)."""

    gain: torch.Tensor
    shift: torch.Tensor

    def __init__(self, preprocess: Preprocess) -> None:
        super().__init__()
        self.mean, self.std, self.size = preprocess.mean, preprocess.std, preprocess.size
        # (x / 255 - mean) / std is computed with one multiplication and one addition, in float32 whatever the tower's precision.
        std, mean = torch.tensor(preprocess.std), torch.tensor(preprocess.mean)
        self.register_buffer("gain", (1.0 / (255.0 * std.double())).float().reshape(3, 1, 1), persistent=False)
        self.register_buffer("shift", (-mean.double() / std.double()).float().reshape(3, 1, 1), persistent=False)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Normalize."""
        # The cast comes before the permutation, because TensorRT allows only a cast of a uint8 input.
        return pixels.to(torch.float32).permute(0, 3, 1, 2) * self.gain + self.shift


class ImageTower(TowerModule):
    """The image tower: pixels, uint8 (N, H, W, 3) after resize and crop or normalized float32 (N, 3, H, W), to (N, D)."""

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
    """The text tower: int32 ids (N, L) to embeddings (N, D)."""

    input_name = "ids"
    output_name = "text_embeds"

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Embed a batch of texts."""
        return self.embed(ids)


class TextAsIs(Unit):
    """A text tower without a family, as the head of an encoder without blocks; it is traced as it is, in one dtype."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.text = model.text if hasattr(model, "text") else _TextParts(model)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Run the tower; of several outputs the first is the embedding."""
        y = self.text(ids.long())
        return (y[0] if isinstance(y, (tuple, list)) else y).to(self.stream_dtype)


class _TextParts(nn.Module):
    """The text tower of a ``CLIP`` that holds its parts itself, without the image tower's parameters."""

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
    """A stem that returns the ids unchanged, for text towers that are traced as they are."""

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        """Return the ids, and no mask."""
        return ids, None


def image_tower(model: Any, preprocess: Preprocess, image_input: ImageInputDtype = "uint8") -> ImageTower:
    """Rebuild the image tower of an open_clip model from its parameters; parts of `model.visual` may be consumed."""
    visual = model.visual
    for family in IMAGE_FAMILIES:
        encoder = family(visual)
        if encoder is not None:
            return ImageTower(encoder.eval(), preprocess, image_input)
    return ImageTower(ImageEncoder(nn.Identity(), [], Whole(visual)).eval(), preprocess, image_input)


def text_tower(model: Any) -> TextTower:
    """Rebuild the text tower of an open_clip model from its parameters; parts of the model may be consumed."""
    for family in TEXT_FAMILIES:
        encoder = family(model)
        if encoder is not None:
            return TextTower(encoder.eval())
    return TextTower(TextEncoder(_IdsThrough(), [], TextAsIs(model)).eval())


def text_is_fixed_length(tower: TextTower) -> bool:
    """Whether the tower can only be traced at one length, because it has no family."""
    return isinstance(tower.encoder.head, TextAsIs)
