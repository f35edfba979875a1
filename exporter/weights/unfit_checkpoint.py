"""The errors of a checkpoint whose tensors cannot be a model's weights: other architecture, foreign names, other types."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from exporter.errors import ExportError
from exporter.weights.checkpoint_files import CONFIG_NAME
from exporter.weights.checkpoint_names import Candidate, is_of_optimizer, missing_names, plain_name
from exporter.weights.checkpoint_reading import Place, not_plain
from exporter.weights.position_embeddings import is_resizable

# Parts that libraries put into names, with the libraries' own functions that remove them.
_REMEDIES = {
    "base_layer": "merge the adapters into the weights first (peft's merge_and_unload)",
    "parametrizations": "take the parametrizations out first (torch.nn.utils.parametrize.remove_parametrizations)",
}


def check_values(path: Path, expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise an `ExportError` that names the first of `tensors` whose values cannot be weights.

    Args:
        path: the checkpoint's path for the message.
        expected: the model's state dict.
        tensors: the tensors by the model's names.
    """
    for name, tensor in tensors.items():
        problem = not_plain(tensor)
        if problem is None and expected[name].is_floating_point() and not tensor.is_floating_point():
            problem = f"of type {str(tensor.dtype).removeprefix('torch.')}"
        if problem is not None:
            raise ExportError(
                f"{name} of {path} is {problem}, not plain floating-point numbers, which this exporter starts from: save the "
                "model's weights as float32, float16 or bfloat16"
            )


def check_architecture(
    path: Path,
    architecture: str,
    expected: Mapping[str, torch.Tensor],
    tensors: Mapping[str, torch.Tensor],
    found: Mapping[Place, torch.Tensor],
    chosen: Candidate,
) -> None:
    """Raise an `ExportError` if `tensors` are not the model's, except for positions that can be interpolated.

    Args:
        path, architecture: the names for the message.
        expected: the model's state dict.
        tensors: the tensors of `chosen`, by the model's names.
        found: all tensors of the checkpoint.
        chosen: the part of the checkpoint that is most like the model.
    """
    problems = _differences(expected, tensors, chosen)
    if problems:
        raise ExportError(_wrong_architecture(path, architecture, expected, found, chosen, problems))


def _differences(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], chosen: Candidate
) -> list[str]:
    """Return the differences between `tensors` and the model's, in words."""
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
    """Make the message with cause and remedy: the architecture that the checkpoint fits, or its foreign names."""
    from exporter.weights.architectures import find_architectures

    inside = {plain_name(place.full.removeprefix(chosen.prefix)): found[place] for place in chosen.extra}
    inside |= {name: found[place] for name, place in chosen.places.items()}
    fits = [name for name in find_architectures(inside) if name != architecture]
    what = f"{path} is not a checkpoint of {architecture}"
    if fits:
        return f"{what}: it {', '.join(problems)}; it fits {' or '.join(fits)}: pass that as MODEL"
    why = _why_foreign(expected, found, chosen)
    if why:
        return f"{what}: its tensors have {len(chosen.places)} of the {len(expected)} names that are wanted, and {why}"
    return (
        f"{what}: it {', '.join(problems)}; no architecture that open_clip lists has these names and sizes: give its own in a "
        f"local-dir: folder with {CONFIG_NAME}"
    )


def _why_foreign(
    expected: Mapping[str, torch.Tensor], found: Mapping[Place, torch.Tensor], chosen: Candidate
) -> str | None:
    """Return how the names in place of the missing ones differ from open_clip's, and the remedy; None if they do not."""
    missing = missing_names(expected, chosen.places)
    used = set(chosen.places.values())
    strangers = [place for place in found if place not in used and not is_of_optimizer(place.full)]
    if not missing or not strangers:
        return None
    return _parts_too_many(expected, missing, strangers, chosen) or _other_beginnings(
        expected, missing, strangers, chosen
    )


def _parts_too_many(
    expected: Mapping[str, torch.Tensor], missing: Sequence[str], strangers: Sequence[Place], chosen: Candidate
) -> str | None:
    """Return the sentence for names with additional parts, if most of the missing names are found with such parts; else None.

    The parts may be a beginning (``text_encoder.``), a module in between (``visual.inner.``), or parts that a library puts around a
    weight (``parametrizations.weight.original``).
    """
    names = sorted((plain_name(place.full).split(".") for place in strangers), key=len)
    pairs: list[tuple[list[str], list[str]]] = []
    for wanted in (name.removeprefix("text.").split(".") for name in missing):
        longer = next((parts for parts in names if _is_inside(wanted, parts)), None)
        if longer is not None:
            pairs.append((wanted, longer))
    if 2 * len(pairs) < len(missing):
        return None
    our_parts = {part for name in expected for part in name.split(".")}
    # Parts that the rest of the model or all names of the file have, too.
    around = set(plain_name(chosen.part).split("."))
    around |= set.intersection(*(set(place.container.split(".")) for place in strangers))
    counts = Counter(part for _, longer in pairs for part in dict.fromkeys(longer) if part not in our_parts | around)
    if not counts and not chosen.places:
        return None
    if not counts:
        # The missing names are in the file without additional parts, and the names that were found have a beginning of their own.
        name, place = next(iter(chosen.places.items()))
        foreign = [
            part for part in plain_name(chosen.part).split(".") if part and part not in {*our_parts, *pairs[0][1]}
        ]
        return _sentence(len(chosen.places), foreign, plain_name(place.full), name) if foreign else None
    most = max(counts.values())
    foreign = [part for part, count in counts.items() if count == most]
    wanted, longer = next(pair for pair in pairs if foreign[0] in pair[1])
    return _sentence(most, foreign, ".".join(longer), ".".join(wanted))


def _sentence(count: int, foreign: Sequence[str], theirs: str, ours: str) -> str:
    remedy = next((_REMEDIES[part] for part in foreign if part in _REMEDIES), "save them under open_clip's names")
    return f"{count} other names have {' and '.join(foreign)} in them, unlike open_clip's ({theirs} in place of {ours}); {remedy}"


def _is_inside(wanted: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether all elements of `wanted` occur in `parts` in the same order."""
    rest = iter(parts)
    return all(part in rest for part in wanted)


def _other_beginnings(
    expected: Mapping[str, torch.Tensor], missing: Sequence[str], strangers: Sequence[Place], chosen: Candidate
) -> str | None:
    """Return the sentence on the beginnings of the largest mapping's names, if they may be in place of the missing names."""
    container, _ = Counter(place.container for place in strangers).most_common(1)[0]
    inside = [place for place in strangers if place.container == container]
    start = chosen.prefix if chosen.prefix.startswith(container) else container
    names = [
        plain_name(place.full.removeprefix(start if place.full.startswith(start) else container)) for place in inside
    ]
    our_beginnings = {name.removeprefix("text.").split(".")[0] for name in expected} | {"text"}
    names = [name for name in names if name.split(".")[0] not in our_beginnings]
    if not names or (2 * len(names) < len(missing) and 2 * len(chosen.places) >= len(expected)):
        return None
    common = []
    for parts in zip(*(name.split(".")[:-1] for name in names), strict=False):
        if len(set(parts)) > 1:
            break
        common.append(f"{parts[0]}.")
    theirs = "".join(common) or _some(list(dict.fromkeys(f"{name.split('.')[0]}." for name in names)))
    return (
        f"the others start with {theirs} ({names[0]}) where the architecture has names like {missing[0]}; save them under "
        "open_clip's names"
    )
