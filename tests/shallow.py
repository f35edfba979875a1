"""Every family of the model list with its true width, head size and token count, but only a few layers deep.

`register` gives open_clip an architecture of its own; a timm trunk gets an entry point of its own that passes a depth.
Text towers keep two layers and, where the embedding table would dominate, a smaller vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workloads.offline_text_towers import offline_architecture

# One architecture for each family, head size and kind of pooling in the model list.
FAMILIES = (
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-H-14",
    "ViT-g-14",
    "ViT-bigG-14",
    "RN50",
    "RN50x4",
    "convnext_base_w",
    "convnext_large_d",
    "EVA02-B-16",
    "EVA01-g-14",
    "EVA02-E-14",
    "coca_ViT-B-32",
    "roberta-ViT-B-32",
    "xlm-roberta-base-ViT-B-32",
)
VOCABULARY = 49408  # of open_clip's tokenizer: text towers that use it keep it
_HF_VOCABULARY = 1000


def register(architecture: str, folder: Path, layers: int = 2, text_layers: int = 2) -> str:
    """Register a shallow version of `architecture` with open_clip and return its name."""
    import open_clip

    name = f"shallow-{architecture}"
    config = open_clip.get_model_config(architecture)
    if "hf_model_name" in config["text_cfg"]:
        return offline_architecture(architecture, folder, text_layers, layers, _HF_VOCABULARY, name)
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_name"] = _shallow_trunk(vision["timm_model_name"], layers)
    else:
        vision["layers"] = [1, 2, 1, 1] if isinstance(vision["layers"], list) else layers
    config["text_cfg"]["layers"] = text_layers
    if "multimodal_cfg" in config:
        config["multimodal_cfg"]["layers"] = 1
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)
    return name


def _shallow_trunk(model_name: str, layers: int) -> str:
    """A timm model like `model_name` with fewer layers, under a name of its own."""
    import timm.models
    from timm.models import is_model, model_entrypoint, register_model

    name = f"shallow{layers}_{model_name}"
    if is_model(name):
        return name
    original: Callable[..., Any] = model_entrypoint(model_name)
    depth: dict[str, Any] = {"depths": (1, 1, 2, 1)} if "convnext" in model_name else {"depth": layers}

    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        return original(pretrained, **depth, **kwargs)

    entry.__name__ = name
    entry.__module__ = timm.models.eva.__name__
    register_model(entry)
    return name
