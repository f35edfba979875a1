"""Pairs of encoders, of eager PyTorch and of engines, for the measurements of `exporter.gate.tasks`."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from exporter.datasets import Picture

if TYPE_CHECKING:
    from engines import Embedder

_BATCH = 8


@dataclass(frozen=True)
class EagerEncoders:
    """The encoders of eager PyTorch: open_clip's own transform, tokenizer and model, in float32."""

    model: Any  # open_clip's model
    transform: Any  # picture -> float32 (3, H, W)
    tokenizer: Any  # texts -> int64 (N, context length); None: there is no text tower
    device: str

    def encode_pictures(self, pictures: Sequence[Picture], _pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute embeddings (N, D), L2-normalized; the pixels, which engines take, are not used."""
        import torch

        parts = []
        with torch.inference_mode(), full_precision():
            for start in range(0, len(pictures), _BATCH):
                batch = torch.stack([self._transformed(picture) for picture in pictures[start : start + _BATCH]])
                parts.append(self.model.encode_image(batch.to(self.device), normalize=True).float().cpu().numpy())
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Compute embeddings (N, D), L2-normalized."""
        return encode_ids(self.model, self.tokenizer(list(texts)), self.device)

    def _transformed(self, picture: Picture) -> Any:
        if isinstance(picture, Image.Image):
            return self.transform(picture)
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            return self.transform(opened)


@dataclass(frozen=True)
class EngineEncoders:
    """The encoders of an engine, loaded as it is for serving."""

    clip: Embedder

    def encode_pictures(self, _pictures: Sequence[Picture], pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Compute embeddings of pixels that the bundle's preprocessing made."""
        embeds: npt.NDArray[np.float32] = self.clip.encode_image(pixels)
        return embeds

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Compute embeddings of texts with the bundle's tokenizer."""
        embeds: npt.NDArray[np.float32] = self.clip.encode_text(list(texts))
        return embeds


def encode_ids(model: Any, ids: Any, device: str) -> npt.NDArray[np.float32]:
    """Compute eager's embeddings (N, D) of token ids (N, L), L2-normalized."""
    import torch

    parts = []
    with torch.inference_mode(), full_precision():
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH].to(device)
            parts.append(model.encode_text(batch, normalize=True).float().cpu().numpy())
    return np.concatenate(parts)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Compute float32 products on a GPU in float32 inside the context, not in TensorFloat-32, cuDNN's default for convolutions."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
