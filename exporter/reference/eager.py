"""Eager float32 PyTorch's embeddings of natural pictures and captions, with which every engine is compared.

Eager runs open_clip's own transform and model, so that a comparison includes every step from a picture to its embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from engines.inputs.preprocess import normalize_pixels, preprocess_image
from engines.manifest import Preprocess
from exporter.reference.parity_data import ParityData
from exporter.source.loading import Source

# The budget of operations limits eager's share of an export's time: about a minute on two cores.
FLOP_BUDGET = 6e12
_LEAST_SAMPLES = 4
_BATCH = 8


@dataclass(frozen=True)
class Reference:
    """The inputs of one tower, and eager float32's embeddings of them.

    Attributes:
        inputs: the pixels, uint8 (N, H, W, 3), or the ids, int32 (N, L).
        embeds: the embeddings, (N, D) float32, L2-normalized.
    """

    inputs: np.ndarray
    embeds: np.ndarray

    def head(self, count: int) -> Reference:
        """The first `count` rows."""
        return Reference(self.inputs[:count], self.embeds[:count])


def open_clip_transform(config: Preprocess) -> Any:
    """Make open_clip's inference transform of a checkpoint's preprocessing: a Pillow image to float32 (3, H, W)."""
    from open_clip.transform import PreprocessCfg, image_transform_v2

    return image_transform_v2(
        PreprocessCfg(
            size=config.size,
            mode="RGB",
            mean=config.mean,
            std=config.std,
            interpolation=config.interpolation,
            resize_mode=config.resize_mode,
            fill_color=config.fill_color,
        ),
        is_train=False,
    )


def image_reference(source: Source, data: ParityData) -> Reference:
    """Compute eager's embeddings of as many images as the budget allows, at least a few."""
    transform = open_clip_transform(source.preprocess)
    model: Any = source.model
    dtype = next(model.parameters()).dtype

    def eager(images: list[Any]) -> torch.Tensor:
        batch = torch.stack([transform(image) for image in images]).to(dtype)
        embeds: torch.Tensor = model.encode_image(batch, normalize=True)
        return embeds

    count = _affordable(eager, list(data.images[:1]), len(data.images))
    images = list(data.images[:count])
    pixels = np.stack([preprocess_image(image, source.preprocess) for image in images])
    return Reference(pixels, _in_batches(eager, images))


def text_reference(source: Source, data: ParityData) -> Reference:
    """Compute eager's embeddings of as many captions as the budget allows, at least a few."""
    if source.tokenizer is None:
        raise ValueError("the source was loaded without its tokenizer")
    model: Any = source.model
    ids = source.tokenizer(list(data.captions)).to(torch.int64)

    def eager(rows: list[torch.Tensor]) -> torch.Tensor:
        embeds: torch.Tensor = model.encode_text(torch.stack(rows), normalize=True)
        return embeds

    count = _affordable(eager, [ids[0]], len(ids))
    return Reference(ids[:count].numpy().astype(np.int32), _in_batches(eager, list(ids[:count])))


def _affordable(eager: Callable[[list[Any]], torch.Tensor], sample: list[Any], available: int) -> int:
    """The number of samples within the budget, from the number of operations of one sample."""
    from torch.utils.flop_counter import FlopCounterMode

    if available <= _LEAST_SAMPLES:
        return available
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        eager(sample)
    return affordable(counter.get_total_flops(), available)


def affordable(flops: float, available: int) -> int:
    """The number of samples within the budget.

    Args:
        flops: number of floating-point operations for one sample.
        available: number of samples at hand.
    """
    return min(available, max(int(FLOP_BUDGET / max(flops, 1)), _LEAST_SAMPLES))


def _in_batches(eager: Callable[[list[Any]], torch.Tensor], samples: list[Any]) -> np.ndarray:
    with torch.inference_mode():
        parts = [eager(samples[i : i + _BATCH]).float() for i in range(0, len(samples), _BATCH)]
    return torch.cat(parts).numpy()


def tower_batches(reference: Reference, config: Preprocess | None, batch: int = _BATCH) -> Iterator[torch.Tensor]:
    """Yield a reference's inputs in batches for a torch tower: as they are, or normalized float32 if `config` is given."""
    for i in range(0, len(reference.inputs), batch):
        rows = reference.inputs[i : i + batch]
        yield torch.from_numpy(normalize_pixels(rows, config) if config is not None else rows)
