"""The zero-shot top-1 accuracy of any pair of image and text encoders on the held-out scenes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from exporter.demo.scenes import EvaluationSet

EncodeImages = Callable[[Sequence[Image.Image]], NDArray[Any]]
EncodeTexts = Callable[[Sequence[str]], NDArray[Any]]


def top1_accuracy(
    evaluation: EvaluationSet, encode_images: EncodeImages, encode_texts: EncodeTexts, batch: int = 64
) -> float:
    """Compute the share of the pictures whose nearest class caption is their own.

    Args:
        evaluation: the pictures, labels and class captions.
        encode_images: a function from pictures to L2-normalized embeddings (N, D).
        encode_texts: a function from captions to L2-normalized embeddings (M, D).
        batch: the number of pictures, and of captions, in a call.

    Returns:
        A number from 0 to 1.
    """
    images = _encode(evaluation.images, encode_images, batch)
    texts = _encode(evaluation.captions, encode_texts, batch)
    return float(np.mean((images @ texts.T).argmax(axis=1) == evaluation.labels))


def _encode(items: Sequence[Any], encode: Callable[[Sequence[Any]], NDArray[Any]], batch: int) -> NDArray[np.float32]:
    parts = [np.asarray(encode(items[at : at + batch]), dtype=np.float32) for at in range(0, len(items), batch)]
    return np.concatenate(parts)


def open_clip_encoders(
    model: Any, transform: Callable[..., Any], tokenizer: Callable[..., Any]
) -> tuple[EncodeImages, EncodeTexts]:
    """Make the two encoders of an eager open_clip model in evaluation mode."""
    import torch
    import torch.nn.functional as F

    def encode_images(images: Sequence[Image.Image]) -> NDArray[Any]:
        with torch.inference_mode():
            pixels = torch.stack([transform(image) for image in images])
            embeddings: NDArray[Any] = F.normalize(model.encode_image(pixels), dim=-1).numpy()
        return embeddings

    def encode_texts(captions: Sequence[str]) -> NDArray[Any]:
        with torch.inference_mode():
            embeddings: NDArray[Any] = F.normalize(model.encode_text(tokenizer(list(captions))), dim=-1).numpy()
        return embeddings

    return encode_images, encode_texts
