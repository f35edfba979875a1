"""The interpolation of a checkpoint's positional embeddings from another image size or text length to the model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from exporter.errors import ExportError

_VIT, _RESNET = "visual.positional_embedding", "visual.attnpool.positional_embedding"


def is_resizable(name: str, table: torch.Tensor, wanted: torch.Tensor) -> bool:
    """Whether `table`, named `name`, is a table (positions, width) that differs from `wanted` only in the number of positions."""
    known = name in (_VIT, _RESNET) or name.removeprefix("text.") == "positional_embedding"
    return known and table.ndim == wanted.ndim == 2 and table.shape[1] == wanted.shape[1] and table.shape[0] > 1


def resize_positions(
    tensors: dict[str, torch.Tensor], expected: Mapping[str, torch.Tensor], model: Any, path: Path
) -> list[str]:
    """Interpolate, in place in `tensors`, the tables whose number of positions is not the model's.

    open_clip's own functions do it, in float32, because PyTorch's bicubic interpolation on a CPU has no half precision. They leave
    out ResNet's attention pooling, whose table is built like ViT's (one token, then the grid) and is treated like it.

    Args:
        tensors: the tensors by the model's names; tables are (positions, width).
        expected: the model's state dict.
        model: an open_clip model.
        path: the checkpoint's path for messages.

    Returns:
        A sentence for each table that was interpolated.

    Raises:
        ExportError: an image tower's table is not one token and a square grid, as which open_clip reads every table.
    """
    from open_clip.model import resize_pos_embed, resize_text_pos_embed

    notes = []
    for name in [name for name in tensors if name in expected and is_resizable(name, tensors[name], expected[name])]:
        before, after = tensors[name].shape[0], expected[name].shape[0]
        if before == after:
            continue
        table = {name.replace("attnpool.", ""): tensors[name].float()}
        if name in (_VIT, _RESNET):
            if math.isqrt(before - 1) ** 2 != before - 1:
                raise ExportError(
                    f"{name} of {path} has {before} positions, which are no token and square grid of patches, so it cannot be "
                    f"interpolated to the {after} of the model; give the image size that it was trained at in a local-dir: folder"
                )
            side = math.isqrt(after - 1)
            grid = model.visual.grid_size if name == _VIT else (side, side)
            resize_pos_embed(table, SimpleNamespace(visual=SimpleNamespace(grid_size=grid)))
        else:
            resize_text_pos_embed(table, model)
        (tensors[name],) = table.values()
        notes.append(f"weights: {name} was interpolated from {before} to {after} positions")
    return notes
