"""The checks for NaN and infinity in a checkpoint's weights and in eager PyTorch's embeddings.

Both are checked before anything is exported, because such values are the checkpoint's fault; the gate then attributes to an engine
only the engine's own errors.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from engines.manifest import TowerName
from exporter.errors import ExportError

_NAMED = 3  # the number of names in a message
_INPUTS = {"image": "picture", "text": "caption"}
# Starts of the names of weights that no tower of a bundle uses: CoCa's caption writer.
_NOT_EXPORTED = ("text_decoder.",)


def check_weights(model: nn.Module, towers: Sequence[TowerName], label: str) -> None:
    """Check every weight and statistic that the exported towers use, and the model's scale and bias.

    Args:
        model: open_clip's model.
        towers: the exported towers; weights of another tower are not checked.
        label: a name of the weights, for the message.

    Raises:
        ExportError: a weight has NaN or infinity; the message names the first such weights.
    """
    damaged: dict[str, int] = {}
    looked_at = 0
    for name, tensor in model.state_dict().items():
        if not tensor.is_floating_point() or not _counts(name, towers):
            continue
        looked_at += 1
        if not _all_finite(tensor):
            damaged[name] = int((~torch.isfinite(tensor)).sum())
    if damaged:
        raise ExportError(
            f"{label} holds NaN or infinity in {_names(damaged)} ({len(damaged)} of {looked_at} tensors), so that no engine can be "
            "right: download or save the checkpoint again (in float32, if it overflowed when it was saved in float16), or take "
            "another one"
        )


def check_embeddings(embeds: npt.NDArray[np.float32], tower: TowerName) -> None:
    """Check eager PyTorch's reference embeddings, with which every engine is compared.

    Args:
        embeds: the embeddings of the gate's inputs, (N, D) float32.
        tower: the tower that computed them.

    Raises:
        ExportError: an embedding has NaN or infinity, or is of length 0 and cannot be normalized.
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
    """Whether all values are finite; the extremes are NaN or infinite if any value is, so no tensor of that size is needed."""
    if not tensor.numel():
        return True
    least, largest = torch.aminmax(tensor)
    return bool(torch.isfinite(least) & torch.isfinite(largest))


def _names(found: dict[str, int]) -> str:
    return listed(f"{name} ({count} value{'s' if count != 1 else ''})" for name, count in found.items())


def listed(items: Iterable[object], most: int = _NAMED) -> str:
    """Join the first `most` items, and add the number of the others."""
    texts = [str(item) for item in items]
    more = f" and {len(texts) - most} more" if len(texts) > most else ""
    return ", ".join(texts[:most]) + more
