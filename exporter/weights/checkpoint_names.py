"""The search for a checkpoint's tensors that are the model, whatever their names start with and whatever wrapped its modules.

One rule covers containers (``state_dict``, ``model_ema``), attributes (``model.`` of a training module) and wrappers
(``module.``, ``_orig_mod.``): they all are parts of a tensor's full dotted name. A name is cut where the architecture's own name
begins, and the tensors with the same prefix are one candidate.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from exporter.errors import ExportError
from exporter.weights.checkpoint_files import Conversion, conversion_of
from exporter.weights.checkpoint_reading import Place

# Attributes, anywhere in a name, under which wrappers keep the wrapped module: DataParallel and AveragedModel, torch.compile, FSDP
# (today's and the first version's), activation checkpointing, Lightning Fabric, Opacus.
_WRAPPERS = frozenset(
    {
        "module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_fpw_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_module",
    }
)
# Keys under which training scripts keep the weights that they train, in the order of preference; an unknown key comes last.
_PLAIN = ("state_dict", "model_state_dict", "model", "net", "network", "params", "weights")
_AVERAGED = re.compile(r"(?<![a-z])(avg|ema|polyak|shadow|swa)(?![a-z])|averag")
# Whole keys of an optimizer's state, in lower case: optimizer, optimizers, optimizer_states, optim_state_dict, opt_state,
# last_optimizer_state, optimizer_0, optimizer_g, g_optim. A model named optimized_clip or opt_125m has another key.
_OPTIMIZER = re.compile(
    r"([a-z0-9]+_)*((optim|optimizer)s?(_[a-z]|_?[0-9]|[gd])?(_(states?|dicts?|history|params))*(_[a-z]|_?[0-9])?|opt_states?(_dicts?)?)"
)
# The last parts of names of entries that are not weights: AveragedModel's count, the sizes in OpenAI's files, a buffer of older
# transformers.
_HARMLESS = frozenset({"n_averaged", "input_resolution", "context_length", "vocab_size", "position_ids"})


@dataclass
class Candidate:
    """The tensors of a checkpoint whose full names are `prefix` followed by a name of the architecture, wrappers aside."""

    prefix: str
    places: dict[str, Place] = field(default_factory=dict)  # the places by the architecture's names
    extra: list[Place] = field(default_factory=list)  # places under the prefix whose names are not the architecture's
    beside: list[Place] = field(default_factory=list)  # places in the same containers, not under the prefix
    is_averaged: bool = False  # whether the file marks them as averages of the trained weights

    @property
    def part(self) -> str:
        """The candidate's name for ``--part``; empty at the outermost level."""
        return self.prefix.rstrip(".")

    @property
    def is_of_optimizer(self) -> bool:
        """Whether these are an optimizer's values for each weight."""
        return is_of_optimizer(self.prefix)

    @property
    def label(self) -> str:
        """The candidate's name in messages."""
        return self.part or "the outermost level"


def find_model(
    tensors: Mapping[Place, torch.Tensor],
    expected: Mapping[str, torch.Tensor],
    path: Path,
    architecture: str,
    computed: Iterable[str] = (),
) -> tuple[Candidate, list[str]]:
    """Find the part of a checkpoint that is the model.

    If several parts are complete, those whose sizes fit come first; among them the trained weights come before their averages, then
    the order of `_PLAIN` decides. A part that lacks names is returned only if no part is complete.

    Args:
        tensors: the result of `exporter.weights.checkpoint_reading.read_checkpoint`.
        expected: the model's own state dict, or tensors of the same shapes.
        path, architecture: the names for messages.
        computed: the names of buffers that the model computes and no checkpoint needs, though TorchScript programs hold them.

    Returns:
        The part, empty if no name is known, and sentences to print on the choice among several parts and on tensors left out.

    Raises:
        ExportError: several parts fit equally well, and their names do not decide which one is the model.
    """
    candidates = _candidates(tensors, expected)
    ignored = {_comparable(name) for name in computed} - {_comparable(name) for name in expected}
    complete = [candidate for candidate in candidates if not missing_names(expected, candidate.places)]
    if not complete:
        nearest = max(candidates, key=lambda candidate: len(candidate.places), default=Candidate(""))
        _find_strangers(nearest, tensors, [], ignored)
        return nearest, []
    for candidate in complete:
        _find_strangers(candidate, tensors, complete, ignored)
    fitting = [item for item in complete if not item.extra and _sizes_fit(item, tensors, expected)] or complete
    chosen = _choose(fitting, complete, path, architecture)
    return chosen, _notes(chosen, complete, path, architecture)


def missing_names(expected: Iterable[str], names: Iterable[str]) -> list[str]:
    """The names that a model needs and `names` lack; a missing bias of the logits is assumed to be zero, as in open_clip."""
    there = set(names)
    return [name for name in expected if name not in there and not (name == "logit_bias" and "logit_scale" in there)]


def is_of_optimizer(name: str) -> bool:
    """Whether a tensor's full name is under a key that training scripts use for the state of an optimizer."""
    return any(_OPTIMIZER.fullmatch(key.lower()) for key in name.split(".")[:-1])


def plain_name(name: str) -> str:
    """Return `name` without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _candidates(tensors: Mapping[Place, torch.Tensor], expected: Mapping[str, torch.Tensor]) -> list[Candidate]:
    known = {_comparable(name): name for name in expected}
    by_prefix: dict[str, Candidate] = {}
    for place in tensors:
        cut = _cut(place.full, expected, known)
        if cut is not None:
            prefix, name = cut
            by_prefix.setdefault(prefix, Candidate(prefix)).places.setdefault(name, place)
    counts = {place.full.removesuffix("n_averaged") for place in tensors if place.full.endswith("n_averaged")}
    for prefix, candidate in by_prefix.items():
        candidate.is_averaged = _AVERAGED.search(prefix.lower()) is not None or any(
            prefix.startswith(start) and not plain_name(prefix[len(start) :]) for start in counts
        )
    return list(by_prefix.values())


def _cut(full: str, expected: Mapping[str, torch.Tensor], known: Mapping[str, str]) -> tuple[str, str] | None:
    """Cut a full name into a prefix and the longest following name of the architecture that does not start with a wrapper."""
    parts = full.split(".")
    for start, first in enumerate(parts):
        tail = ".".join(parts[start:])
        name = tail if tail in expected else known.get(_comparable(tail))
        if name is not None and first not in _WRAPPERS:
            return full[: len(full) - len(tail)], name
    return None


def _comparable(name: str) -> str:
    """Return a form that is equal for both forms of open_clip's names: text parameters under ``text.``, or at the top."""
    return plain_name(name).removeprefix("text.")


def _find_strangers(
    candidate: Candidate, tensors: Mapping[Place, torch.Tensor], complete: list[Candidate], ignored: set[str]
) -> None:
    """Fill the candidate's `extra` and `beside`; complete models elsewhere in the file belong to neither."""
    containers = {place.container for place in candidate.places.values() or tensors}
    own_places = set(candidate.places.values())
    others = [item for item in complete if item is not candidate]
    inner = tuple(item.prefix for item in others if item.prefix.startswith(candidate.prefix))
    models = {place for item in others for place in item.places.values()}
    for place in tensors:
        if place.container not in containers or place in own_places or place in models or place.full.startswith(inner):
            continue
        under = place.full.startswith(candidate.prefix)
        is_computed = under and _comparable(place.full.removeprefix(candidate.prefix)) in ignored
        if not is_computed and place.full.split(".")[-1] not in _HARMLESS:
            (candidate.extra if under else candidate.beside).append(place)


def _sizes_fit(
    candidate: Candidate, tensors: Mapping[Place, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> bool:
    """Whether all tensors have the model's shapes, except positions, which can be interpolated, and dimensions of size one."""
    return all(
        _without_ones(tensors[place]) == _without_ones(expected[name])
        for name, place in candidate.places.items()
        if not name.endswith("positional_embedding")
    )


def _without_ones(tensor: torch.Tensor) -> list[int]:
    return [size for size in tensor.shape if size != 1]


def _choose(candidates: list[Candidate], complete: list[Candidate], path: Path, architecture: str) -> Candidate:
    weights = [item for item in candidates if not item.is_of_optimizer] or candidates
    trained = [item for item in weights if not item.is_averaged] or weights
    ranks = [_rank(item) for item in trained]
    best = [item for item, rank in zip(trained, ranks, strict=True) if rank == min(ranks)]
    if len(best) > 1:
        raise ExportError(
            f"{path} holds several models that fit {architecture}: {', '.join(item.label for item in best)}; write the one to "
            f"use with {_conversion(path, best[0], complete)}"
        )
    return best[0]


def _conversion(path: Path, candidate: Candidate, complete: list[Candidate]) -> Conversion:
    """Make the command that writes `candidate` as the only model of a file."""
    prefixes = [item.prefix for item in complete if item is not candidate and item.prefix.startswith(candidate.prefix)]
    return conversion_of(path, *(f"--without={prefix.rstrip('.')}" for prefix in prefixes), part=candidate.part)


def _rank(candidate: Candidate) -> tuple[int, ...]:
    keys = plain_name(candidate.prefix).split(".")[:-1]
    return tuple(_PLAIN.index(key) if key in _PLAIN else len(_PLAIN) for key in keys)


def _notes(chosen: Candidate, complete: list[Candidate], path: Path, architecture: str) -> list[str]:
    notes = []
    others = [item for item in complete if item is not chosen and not item.is_of_optimizer]
    if others:
        also = ", ".join(f"{item.label} (averaged weights)" if item.is_averaged else item.label for item in others)
        notes.append(
            f"weights: {chosen.label} of {path.name} was taken; it also holds {also}: to use that, write it as a file of its own "
            f"with {_conversion(path, others[0], complete)}"
        )
    elif chosen.is_averaged:
        notes.append(f"weights: {chosen.label} of {path.name} was taken, averaged weights; it holds no others")
    if chosen.beside:
        names = [place.full for place in chosen.beside]
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        notes.append(
            f"weights: {', '.join(names[:3])}{more} in {path.name} were left out: they stand beside {chosen.label}, which is "
            f"{architecture} and complete"
        )
    return notes
