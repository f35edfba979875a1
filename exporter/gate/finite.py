"""Whose fault a NaN is: weights that are not numbers, or embeddings of eager PyTorch that are not, are the checkpoint's.

Both are looked at before anything is exported, so that the gate blames an engine only for what the engine did.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engines.manifest import TowerName
from exporter.errors import ExportError

_NAMED = 3  # names in a message
_INPUTS = {"image": "picture", "text": "caption"}
# What no tower of a bundle computes with: CoCa's caption writer.
_NOT_EXPORTED = ("text_decoder.",)


def check_weights(model: nn.Module, towers: Sequence[TowerName], label: str) -> None:
    """Look at every weight and statistic that the exported towers compute with, and at the model's scale and bias.

    Args:
        model: open_clip's.
        towers: that are exported; a weight of the other one does no harm.
        label: what the weights are, for the message.

    Raises:
        ExportError: NaN or infinity in a weight; names the first of them.
    """
    found: dict[str, int] = {}
    looked_at = 0
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or not _counts(name, towers):
            continue
        looked_at += 1
        if not _all_finite(tensor):
            found[name] = int((~torch.isfinite(tensor)).sum())
    if found:
        raise ExportError(
            f"{label} holds NaN or infinity in {_names(found)} ({len(found)} of {looked_at} tensors), so that no engine can be "
            "right: download or save the checkpoint again (in float32, if it overflowed when it was saved in float16), or take "
            "another one"
        )


def check_embeddings(embeds: npt.NDArray[np.float32], tower: TowerName) -> None:
    """Look at eager PyTorch's reference embeddings, the measure of every engine.

    Args:
        embeds: (N, D) float32, of the gate's inputs.
        tower: that gave them.

    Raises:
        ExportError: one is NaN, infinite, or of length 0: what cannot be normalized.
    """
    what = _INPUTS[tower]
    finite = np.isfinite(embeds).all(axis=1)
    remedy = (
        "whatever engine runs it, this checkpoint cannot be served: check that it is complete and that its architecture is the "
        f"one named, or pass other {what}s with --parity-data"
    )
    if not finite.all():
        raise ExportError(
            f"eager float32 PyTorch itself gives NaN or infinity for {int((~finite).sum())} of {len(embeds)} {what}s, the first "
            f"at index {int(finite.argmin())}, though all weights of the {tower} tower are finite: {remedy}"
        )
    empty = ~embeds.any(axis=1)
    if empty.any():
        raise ExportError(
            f"eager float32 PyTorch itself gives an embedding of length 0 for {int(empty.sum())} of {len(embeds)} {what}s, the "
            f"first at index {int(empty.argmax())}, so that there is no direction to compare: {remedy}"
        )


def _counts(name: str, towers: Sequence[TowerName]) -> bool:
    if name.startswith("visual."):
        return "image" in towers
    if name.startswith(("logit_scale", "logit_bias")):
        return True
    return "text" in towers and not name.startswith(_NOT_EXPORTED)


def _all_finite(tensor: torch.Tensor) -> bool:
    """Without a second tensor of that size: the least and the largest value are NaN or infinite if any value is."""
    if not tensor.numel():
        return True
    least, largest = torch.aminmax(tensor)
    return bool(torch.isfinite(least) & torch.isfinite(largest))


def _names(found: dict[str, int]) -> str:
    return listed(f"{name} ({count} value{'s' if count != 1 else ''})" for name, count in found.items())


def listed(items: Iterable[object], most: int = _NAMED) -> str:
    """The first `most` items, and how many more there are."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
