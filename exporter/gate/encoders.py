"""Eager PyTorch and engines as pairs of encoders: what `exporter.gate.tasks` measures."""

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
    """open_clip's own transform, tokenizer and model, in float32."""

    model: Any  # open_clip's
    transform: Any  # picture -> float32 (3, H, W)
    tokenizer: Any  # texts -> int64 (N, context length); None: there is no text tower
    device: str

    def encode_pictures(self, pictures: Sequence[Picture], _pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embeddings (N, D), L2-normalized; the pixels are the engine's business."""
        import torch

        parts = []
        with torch.inference_mode(), full_precision():
            for start in range(0, len(pictures), _BATCH):
                batch = torch.stack([self._transformed(picture) for picture in pictures[start : start + _BATCH]])
                parts.append(self.model.encode_image(batch.to(self.device), normalize=True).float().cpu().numpy())
        return np.concatenate(parts)

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings (N, D), L2-normalized."""
        return encode_ids(self.model, self.tokenizer(list(texts)), self.device)

    def _transformed(self, picture: Picture) -> Any:
        if isinstance(picture, Image.Image):
            return self.transform(picture)
        with Image.open(io.BytesIO(picture) if isinstance(picture, bytes) else picture) as opened:
            return self.transform(opened)


@dataclass(frozen=True)
class EngineEncoders:
    """An engine as it serves."""

    clip: Embedder

    def encode_pictures(self, _pictures: Sequence[Picture], pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Embeddings of pixels that the bundle's preprocessing made."""
        embeds: npt.NDArray[np.float32] = self.clip.encode_image(pixels)
        return embeds

    def encode_texts(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Embeddings of texts, by the bundle's tokenizer."""
        embeds: npt.NDArray[np.float32] = self.clip.encode_text(list(texts))
        return embeds


def encode_ids(model: Any, ids: Any, device: str) -> npt.NDArray[np.float32]:
    """Eager's embeddings (N, D) of token ids (N, L), L2-normalized."""
    import torch

    parts = []
    with torch.inference_mode(), full_precision():
        for start in range(0, len(ids), _BATCH):
            batch = ids[start : start + _BATCH].to(device)
            parts.append(model.encode_text(batch, normalize=True).float().cpu().numpy())
    return np.concatenate(parts)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """float32 products on a GPU are float32, not TensorFloat-32, which cuDNN's convolutions are by default."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
