"""The loading of a checkpoint's weights into a model: chosen by names, checked against the model, without a second copy."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from exporter.weights.checkpoint_names import find_model, plain_name
from exporter.weights.checkpoint_reading import Place
from exporter.weights.position_embeddings import resize_positions
from exporter.weights.random_weights import cast_buffers
from exporter.weights.unfit_checkpoint import check_architecture, check_values

# Ends of names that only Apple's MobileCLIP files have; open_clip converts such files.
_CONVERTIBLE = (
    "image_encoder.model.patch_embed.0.rbr_conv.0.conv.weight",
    "image_encoder.model.patch_emb.0.block.conv.weight",
)


def load_weights(
    model: nn.Module,
    checkpoint: dict[Place, torch.Tensor],
    path: Path,
    architecture: str,
    dtype: torch.dtype = torch.float32,
) -> tuple[str, ...]:
    """Replace the tensors of `model` by a checkpoint's, with the conversions that open_clip makes.

    The model takes the tensors themselves, so that weights are never in memory twice; afterwards all floating-point
    parameters and buffers are `dtype`.

    Args:
        model: an open_clip model; its own parameters may be uninitialised.
        checkpoint: the result of `exporter.weights.checkpoint_reading.read_checkpoint`; it is emptied.
        path, architecture: the names for messages.
        dtype: the dtype of the loaded floating-point tensors.

    Returns:
        Sentences to print, for example on the choice among several sets of weights, or on interpolated positional embeddings.

    Raises:
        ExportError: the checkpoint is of another architecture, has weights that are not floating-point numbers, or holds several
            models whose names do not decide which one to take.
    """
    expected = model.state_dict()
    converted = _converted(model, checkpoint)
    checkpoint.clear()
    computed = [name for name, _ in model.named_buffers()]
    chosen, notes = find_model(converted, expected, path, architecture, computed)
    tensors = {name: converted[place] for name, place in chosen.places.items()}
    check_values(path, expected, tensors)
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    if "logit_bias" in expected and "logit_bias" not in tensors and "logit_scale" in tensors:
        tensors["logit_bias"] = torch.zeros_like(expected["logit_bias"])
    check_architecture(path, architecture, expected, tensors, converted, chosen)
    converted.clear()
    notes += [f"{note} to fit {architecture}" for note in resize_positions(tensors, expected, model, path)]
    del expected
    model.load_state_dict(tensors, strict=True, assign=True)
    tensors.clear()
    cast_model(model, dtype)
    return tuple(notes)


def _converted(model: nn.Module, checkpoint: Mapping[Place, torch.Tensor]) -> dict[Place, torch.Tensor]:
    """Copy the mapping, with the names of formats that open_clip converts changed to open_clip's."""
    from open_clip.convert import convert_state_dict

    renamed = dict(checkpoint)
    names = {place: plain_name(place.full) for place in renamed}
    marked = [(name, marker) for name in names.values() for marker in _CONVERTIBLE if name.endswith(marker)]
    for prefix in dict.fromkeys(name.removesuffix(marker) for name, marker in marked):
        foreign = {place: name.removeprefix(prefix) for place, name in names.items() if name.startswith(prefix)}
        if "logit_scale" not in foreign.values() or not hasattr(getattr(model, "visual", None), "trunk"):
            continue  # open_clip's conversion needs both; the names remain foreign, which the later message reports
        originals = {name: renamed.pop(place) for place, name in foreign.items()}
        renamed |= {Place(prefix, name): tensor for name, tensor in convert_state_dict(model, originals).items()}
    return renamed


def cast_model(model: nn.Module, dtype: torch.dtype) -> None:
    """Convert floating-point parameters and buffers to `dtype`, one tensor at a time."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
        cast_buffers(module, dtype)
