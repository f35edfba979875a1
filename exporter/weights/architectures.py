"""The search for the open_clip architecture of a set of weights, for the message about an unfit checkpoint."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from exporter.weights.random_weights import uninitialized_parameters

_MOST_BUILDS = 16


def find_architectures(tensors: Mapping[str, torch.Tensor]) -> list[str]:
    """Find the names in ``open_clip.list_models()`` whose parameters have exactly these names and shapes.

    Configurations that cannot fit are excluded by the text tower's sizes; the rest are built without touching their memory
    and compared. Architectures that differ only in their activation (``-quickgelu``) have the same weights, so the plain name is
    returned for both. The search is not complete: it stops after 16 builds, and skips architectures that need a download.
    """
    import open_clip

    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    wanted = _with_text_prefix(shapes)
    built = 0
    matching: list[str] = []
    for name in open_clip.list_models():
        config = open_clip.get_model_config(name)
        if name.endswith("-quickgelu") or not _may_fit(config, shapes):
            continue
        if built == _MOST_BUILDS:
            break
        built += 1
        if _parameter_shapes(name) == wanted:
            matching.append(name)
    return matching


def _may_fit(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> bool:
    text, vision = config["text_cfg"], config["vision_cfg"]
    if "hf_model_name" in text:
        return False
    table = shapes.get("token_embedding.weight", shapes.get("text.token_embedding.weight"))
    if table != (text.get("vocab_size", 49408), text.get("width", 512)):
        return False
    layers = sum(name.endswith(".ln_1.weight") and not name.startswith(("visual.", "text_decoder.")) for name in shapes)
    if layers != text.get("layers", 12):
        return False
    if ("timm_model_name" in vision) != any(name.startswith("visual.trunk.") for name in shapes):
        return False
    if "timm_model_name" in vision:
        return True
    if isinstance(vision.get("layers"), (list, tuple)):
        return "visual.layer1.0.conv1.weight" in shapes
    patch, width = vision.get("patch_size", 16), vision.get("width", 768)
    return shapes.get("visual.conv1.weight") == (width, 3, patch, patch)


def _parameter_shapes(name: str) -> dict[str, tuple[int, ...]]:
    import open_clip

    try:
        with uninitialized_parameters(), quiet_open_clip():
            model = open_clip.create_model(name, load_weights=False, pretrained_text=False)
    except Exception:  # noqa: BLE001 - a configuration that cannot be built here is no candidate
        return {}
    return _with_text_prefix({key: tuple(value.shape) for key, value in model.state_dict().items()})


def _with_text_prefix(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Return the shapes under the names of a model with a separate text tower; open_clip converts between the two forms."""
    top = ("visual.", "text.", "text_decoder.", "logit_")
    return {name if name.startswith(top) else f"text.{name}": shape for name, shape in shapes.items()}


@contextlib.contextmanager
def quiet_open_clip() -> Iterator[None]:
    """Suppress open_clip's log lines and warnings, because this package prints its own notes on choices and reasons.

    open_clip logs through the root logger's shortcuts, which would also install a handler there; inside the context the root logger
    therefore has a handler that does nothing.
    """
    root = logging.getLogger()
    handler = logging.NullHandler()
    before = root.manager.disable
    root.addHandler(handler)
    logging.disable(max(before, logging.ERROR))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        root.removeHandler(handler)
