"""The losses of the demo model's training."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from exporter.demo.training_data import FIELD_VALUES


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor, is_true: Tensor) -> Tensor:
    """Compute the symmetric cross-entropy over the batch, without the other pairs whose text is true of the image.

    Args:
        images: L2-normalized image embeddings (N, D).
        texts: L2-normalized text embeddings (N, D), row i for image i.
        logit_scale: the scalar multiplier of the cosines.
        is_true: bool (N, N), whether text j is true of image i.
    """
    pairs = torch.eye(len(images), dtype=torch.bool)
    logits = (logit_scale * images @ texts.T).masked_fill(is_true & ~pairs, -math.inf)
    target = torch.arange(len(images))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class FieldHeads(nn.Module):
    """Linear classifiers, one for each field of a scene, shared by both towers' embeddings and discarded after training.

    With the contrastive loss alone, shapes and counts are separated slowly. Classifying each field gives both towers a gradient
    for every field from the first step, and a shared classifier makes their embeddings similar.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.readers = nn.ModuleList([nn.Linear(width, len(known)) for known in FIELD_VALUES.values()])
        for reader in self.readers:
            nn.init.zeros_(reader.weight)  # type: ignore[arg-type]
            nn.init.zeros_(reader.bias)  # type: ignore[arg-type]

    def loss(self, embeddings: Tensor, values: Tensor, told: Tensor | None = None) -> Tensor:
        """Compute the mean cross-entropy over the fields.

        Args:
            embeddings: L2-normalized embeddings (N, D).
            values: the fields' values, int64 (N, fields), as `field_values` returns them.
            told: whether a field counts, bool (N, fields); None: all fields count.
        """
        losses = [
            F.cross_entropy(r(10 * embeddings), v, reduction="none")
            for r, v in zip(self.readers, values.T, strict=True)
        ]
        each = torch.stack(losses, dim=1)
        return each.mean() if told is None else each[told].mean()
