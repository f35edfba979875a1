"""Checkpoint files: read without running code from them, checked against the architecture, loaded without a second copy."""

from __future__ import annotations

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from exporter.checkpoint_files import SUFFIXES
from exporter.errors import ExportError
from exporter.random_weights import cast_buffers

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module")
_PREFIXES = ("module.", "_orig_mod.")


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a checkpoint by parameter name; memory-mapped where the format allows it.

    Training checkpoints (the weights under ``state_dict`` beside an optimizer, names starting with ``module.``) are unwrapped.

    Raises:
        ExportError: missing, empty, truncated, of an unknown format, or a pickle that would run code.
    """
    if path.is_dir():
        raise ExportError(
            f"{path} is a folder, not a checkpoint; for a folder in open_clip's format pass local-dir:{path} as MODEL"
        )
    if not path.is_file():
        raise ExportError(f"no such checkpoint: {path}")
    if path.suffix not in SUFFIXES:
        raise ExportError(f"{path} does not end in {', '.join(SUFFIXES)}: not a checkpoint that can be read here")
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise ExportError(f"{path} is empty (0 bytes): download or save it again")
    if head.startswith(b"version https://git-lfs"):
        raise ExportError(f"{path} is a Git LFS pointer, not the weights: fetch them with `git lfs pull`")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path, head)
    return _unwrap(path, content)


def _read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _read_pickle(path: Path, head: bytes) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about TorchScript archives; the error below says it
            # Only the zip format can be mapped; older pickles are read whole.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=head.startswith(b"PK\x03\x04"))
    except pickle.UnpicklingError as error:
        found = re.search(r"(?:GLOBAL|Unsupported class)\s+(\S+)", str(error))
        if found is None:
            raise _damaged(path, ValueError("not a pickle of weights")) from error
        raise _refused(path, f"it holds {found[1].strip('`.,')}", "torch.load(path, weights_only=False)") from error
    except Exception as error:  # bytes from anywhere: torch's unpickler raises whatever the damage leads it to
        if "TorchScript" in str(error):
            how = "torch.jit.load(path).state_dict()"
            raise _refused(path, "it is a TorchScript program, as OpenAI's original files are", how) from error
        raise _damaged(path, error) from error


def _refused(path: Path, what: str, load: str) -> ExportError:
    return ExportError(
        f"{path} cannot be read as plain weights: {what}, and loading that would run code from the file; "
        f"if you trust it, convert it once with `torch.save({load}, 'weights.pt')`, or pass a tag or a .safetensors file"
    )


def _damaged(path: Path, error: Exception) -> ExportError:
    detail = (" ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__)[:120]
    return ExportError(f"{path} is truncated or not a checkpoint ({detail}); delete it and download or save it again")


def _unwrap(path: Path, content: Any) -> dict[str, torch.Tensor]:
    if isinstance(content, Mapping):
        for key in _WRAPPERS:
            if isinstance(content.get(key), Mapping):
                content = content[key]
                break
    tensors: dict[str, torch.Tensor] = {}
    if isinstance(content, Mapping):
        tensors = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    if not tensors:
        raise ExportError(f"{path} holds no model weights (expected a mapping of parameter names to tensors)")
    for prefix in _PREFIXES:
        if all(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def load_weights(
    model: nn.Module,
    state_dict: dict[str, torch.Tensor],
    path: Path,
    architecture: str,
    dtype: torch.dtype = torch.float32,
) -> tuple[str, ...]:
    """Put the tensors of `state_dict` into `model` in place of its own, with the conversions that open_clip makes.

    The model takes the tensors themselves, so that weights are never in memory twice; afterwards all floating-point
    parameters and buffers are `dtype`.

    Args:
        model: an open_clip model; its own parameters may be uninitialised.
        state_dict: from `read_state_dict`; emptied.
        path, architecture: for messages.

    Returns:
        Sentences to print, e.g. that positional embeddings were resized to the architecture's image size.

    Raises:
        ExportError: the checkpoint is of another architecture.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed

    tensors = dict(convert_state_dict(model, state_dict))
    if "positional_embedding" in tensors and not hasattr(model, "positional_embedding"):
        tensors = dict(convert_to_custom_text_state_dict(tensors))
    elif any(name.startswith("text.") for name in tensors) and not hasattr(model, "text"):
        tensors = {name.removeprefix("text."): tensor for name, tensor in tensors.items()}
    state_dict.clear()
    expected = model.state_dict()
    for name in ("logit_scale", "logit_bias"):
        if name in tensors and name in expected:
            tensors[name] = tensors[name].reshape(expected[name].shape)
    if "logit_bias" in expected and "logit_bias" not in tensors and "logit_scale" in tensors:
        tensors["logit_bias"] = torch.zeros_like(expected["logit_bias"])
    for name in ("text.transformer.embeddings.position_ids", "input_resolution", "context_length", "vocab_size"):
        if name not in expected:
            tensors.pop(name, None)

    positions = [name for name in tensors if name.endswith("positional_embedding")]
    problems = _differences(expected, tensors, ignore=positions)
    if problems:
        raise ExportError(_wrong_architecture(path, architecture, tensors, problems))
    before = {name: tuple(tensors[name].shape) for name in positions}
    resize_pos_embed(tensors, model)
    resize_text_pos_embed(tensors, model)
    problems = _differences(expected, tensors)
    if problems:
        raise ExportError(_wrong_architecture(path, architecture, tensors, problems))
    notes = tuple(
        f"weights: {name} was interpolated from {before[name][0]} to {tensors[name].shape[0]} positions to fit {architecture}"
        for name in positions
        if tuple(tensors[name].shape) != before[name]
    )
    del expected
    model.load_state_dict(tensors, strict=True, assign=True)
    tensors.clear()
    cast_model(model, dtype)
    return notes


def cast_model(model: nn.Module, dtype: torch.dtype) -> None:
    """Hold floating-point parameters and buffers as `dtype`, one tensor at a time."""
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if parameter.is_floating_point() and parameter.dtype != dtype:
                parameter.data = parameter.data.to(dtype)
        cast_buffers(module, dtype)


def _differences(
    expected: Mapping[str, torch.Tensor], tensors: Mapping[str, torch.Tensor], ignore: list[str] | None = None
) -> list[str]:
    skipped = set(ignore or ())
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    shapes = [
        f"{name} is {_shape(tensors[name])}, not {_shape(expected[name])}"
        for name in expected
        if name in tensors and name not in skipped and tensors[name].shape != expected[name].shape
    ]
    problems = []
    if missing:
        problems.append(f"lacks {_some(missing)}")
    if unexpected:
        problems.append(f"has {_some(unexpected)} too many")
    if shapes:
        problems.append(f"differs in size ({_some(shapes, 2)})")
    return problems


def _shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _some(names: list[str], count: int = 3) -> str:
    rest = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + rest


def _wrong_architecture(path: Path, architecture: str, tensors: Mapping[str, torch.Tensor], problems: list[str]) -> str:
    from exporter.architectures import find_architectures

    fits = [name for name in find_architectures(tensors) if name != architecture]
    advice = (
        f"it fits {' or '.join(fits)}: pass that as MODEL" if fits else "pass the architecture that it was trained as"
    )
    return f"{path} is not a checkpoint of {architecture}: it {', '.join(problems)}; {advice}"
