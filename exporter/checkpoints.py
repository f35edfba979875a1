"""Weights of a checkpoint put into a model: chosen by its names, checked against it, loaded without a second copy."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from exporter.checkpoint_files import CONFIG_NAME
from exporter.checkpoint_names import Candidate, find_model, missing_names, plain_name
from exporter.checkpoint_reading import Place
from exporter.errors import ExportError
from exporter.position_embeddings import is_resizable, resize_positions
from exporter.random_weights import cast_buffers

# Names that only Apple's MobileCLIP files have; open_clip converts such files.
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
    """Put a checkpoint's tensors into `model` in place of its own, with the conversions that open_clip makes.

    The model takes the tensors themselves, so that weights are never in memory twice; afterwards all floating-point
    parameters and buffers are `dtype`.

    Args:
        model: an open_clip model; its own parameters may be uninitialised.
        checkpoint: from `exporter.checkpoint_reading.read_checkpoint`; emptied.
        path, architecture: for messages.

    Returns:
        Sentences to print, e.g. which of several sets of weights was taken, or that positional embeddings were interpolated.

    Raises:
        ExportError: the checkpoint is of another architecture, or holds several models and does not say which one is meant.
    """
    expected = model.state_dict()
    found = _converted(model, checkpoint)
    checkpoint.clear()
    computed = [name for name, _ in model.named_buffers()]
    chosen, notes = find_model(found, expected, path, architecture, computed)
    tensors = {name: found[place] for name, place in chosen.places.items()}
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and tensors[name].numel() == 1:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    if "logit_bias" in expected and "logit_bias" not in tensors and "logit_scale" in tensors:
        tensors["logit_bias"] = torch.zeros_like(expected["logit_bias"])
    problems = _differences(expected, tensors, chosen)
    if problems:
        raise ExportError(_wrong_architecture(path, architecture, expected, found, chosen, problems))
    found.clear()
    notes += [f"{note} to fit {architecture}" for note in resize_positions(tensors, expected, model, path)]
    del expected
    model.load_state_dict(tensors, strict=True, assign=True)
    tensors.clear()
    cast_model(model, dtype)
    return tuple(notes)


def _converted(model: nn.Module, checkpoint: Mapping[Place, torch.Tensor]) -> dict[Place, torch.Tensor]:
    """A copy of the mapping in which the names of formats that open_clip knows are open_clip's."""
    from open_clip.convert import convert_state_dict

    found = dict(checkpoint)
    names = {place: plain_name(place.full) for place in found}
    marked = [(name, marker) for name in names.values() for marker in _CONVERTIBLE if name.endswith(marker)]
    for prefix in dict.fromkeys(name.removesuffix(marker) for name, marker in marked):
        foreign = {place: name.removeprefix(prefix) for place, name in names.items() if name.startswith(prefix)}
        if "logit_scale" not in foreign.values() or not hasattr(getattr(model, "visual", None), "trunk"):
            continue  # open_clip's conversion needs both; the names remain foreign, and the message will say so
        own = {name: found.pop(place) for place, name in foreign.items()}
        found |= {Place(prefix, name): tensor for name, tensor in convert_state_dict(model, own).items()}
    return found


def cast_model(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold floating-point parameters and buffers as `dtype`, one tensor at a time."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
        cast_buffers(module, dtype)


def _differences(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], chosen: Candidate
) -> list[str]:
    """What keeps `tensors` from being the model's, but for positions that can be interpolated."""
    missing = missing_names(expected, tensors)
    shapes = [
        f"{name} is {_shape(tensor)}, not {_shape(expected[name])}"
        for name, tensor in tensors.items()
        if tensor.shape != expected[name].shape and not is_resizable(name, tensor, expected[name])
    ]
    problems = []
    if missing:
        problems.append(f"lacks {_some(missing)}")
    if chosen.extra:
        problems.append(f"has {_some([place.full for place in chosen.extra])} too many")
    if shapes:
        problems.append(f"differs in size ({_some(shapes, 2)})")
    return problems


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: Sequence[str], count: int = 3) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _wrong_architecture(
    path: Path,
    architecture: str,
    expected: Mapping[str, torch.Tensor],
    found: Mapping[Place, torch.Tensor],
    chosen: Candidate,
    problems: list[str],
) -> str:
    """Why the checkpoint cannot be loaded, and what to do: the architecture that it fits, or the names that are foreign to it."""
    from exporter.architectures import find_architectures

    inside = {plain_name(place.full.removeprefix(chosen.prefix)): found[place] for place in chosen.extra}
    inside |= {name: found[place] for name, place in chosen.places.items()}
    fits = [name for name in find_architectures(inside) if name != architecture]
    what = f"{path} is not a checkpoint of {architecture}"
    if fits:
        return f"{what}: it {', '.join(problems)}; it fits {' or '.join(fits)}: pass that as MODEL"
    foreign = _foreign_names(expected, found)
    if foreign and 2 * len(chosen.places) < len(expected):
        return (
            f"{what}: its tensors have {len(chosen.places)} of the {len(expected)} names that are wanted, and {foreign}; save "
            "them under open_clip's names"
        )
    return (
        f"{what}: it {', '.join(problems)}; no architecture that open_clip lists has these names and sizes: give its own in a "
        f"local-dir: folder with {CONFIG_NAME}"
    )


def _foreign_names(expected: Mapping[str, torch.Tensor], found: Mapping[Place, torch.Tensor]) -> str:
    """What the names of the largest mapping start with and the model's do not; empty if there is nothing of the kind."""
    container, _ = Counter(place.container for place in found).most_common(1)[0]
    names = [plain_name(place.name) for place in found if place.container == container]
    common = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(f"{parts[0]}.")
    own = {name.removeprefix("text.").split(".")[0] for name in expected} | {"text"}
    foreign = list(dict.fromkeys(name.split(".")[0] for name in names if name.split(".")[0] not in own))
    if not foreign:
        return ""
    example = next(name for name in names if name.split(".")[0] == foreign[0])
    theirs = "".join(common) or _some([f"{name}." for name in foreign])
    return f"they start with {theirs} ({example}) where the architecture has names like {list(expected)[1]}"
