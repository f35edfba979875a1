"""Every family of the model list with its true width, head size and token count, but only a few layers deep.

`register` gives open_clip an architecture of its own; a timm trunk gets an entry point of its own that passes a depth.
Text towers keep two layers and, where the embedding table would dominate, a smaller vocabulary. ``narrow`` ones have four heads
of the true size, and the small vocabulary: the graph is the same but for its numbers, and most of the time goes into weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.workloads.offline_text_towers import needs_hub, offline_architecture

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
    "ViT-B-16-SigLIP2",
    "MobileCLIP-B",
    "MobileCLIP2-S0",
    "MobileCLIP2-S3",
    "PE-Core-T-16-384",
    "ViTamin-S",
    "nllb-clip-base",
)
VOCABULARY = 49408  # of open_clip's tokenizer: text towers that use it keep it
SMALL_VOCABULARY = 1000  # of narrow text towers, and of all that open_clip takes from Hugging Face
_HEADS = 4  # with two, TensorRT-RTX has no fused attention for 50 tokens and more
_HEAD_SIZES = {
    "eva02_base_patch16_clip_224": 64,
    "eva_giant_patch14_224": 88,
    "eva02_enormous_patch14_clip_224": 112,
    "vit_pe_core_tiny_patch16_384": 64,
}


def register(
    architecture: str,
    folder: Path,
    layers: int = 2,
    text_layers: int = 2,
    narrow: bool = False,
    vocabulary: int | None = None,
) -> str:
    """Register a shallow version of `architecture` with open_clip and return its name.

    `vocabulary`: of texts; None is the small one where the tower is narrow, or takes it from Hugging Face, and else the true one.
    """
    import open_clip

    name = f"{'narrow' if narrow else 'shallow'}-{architecture}"
    config = open_clip.get_model_config(architecture)
    vision = config["vision_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_name"] = _shallow_trunk(vision["timm_model_name"], layers, narrow)
    else:
        vision["layers"] = [1, 2, 1, 1] if isinstance(vision["layers"], list) else layers
        if narrow:
            vision["width"] = (
                vision["width"] // 4 if architecture.startswith("RN") else _HEADS * vision.get("head_width", 64)
            )
    if needs_hub(architecture):
        return offline_architecture(architecture, folder, text_layers, vision, SMALL_VOCABULARY, name)
    config["text_cfg"]["layers"] = text_layers
    if narrow or vocabulary is not None:
        config["text_cfg"]["vocab_size"] = vocabulary or SMALL_VOCABULARY
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"layers": 1, "vocab_size": config["text_cfg"]["vocab_size"]}
    elif narrow:
        config["text_cfg"] |= {"width": 64 * _HEADS, "heads": _HEADS}
    path = folder / f"{name}.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    open_clip.add_model_config(path)
    return name


def _shallow_trunk(model_name: str, layers: int, narrow: bool) -> str:
    """A timm model like `model_name` with fewer layers, under a name of its own."""
    import timm.models
    from timm.models import is_model, model_entrypoint, register_model

    name = f"{'narrow' if narrow else 'shallow'}{layers}_{model_name}"
    if is_model(name):
        return name
    original: Callable[..., Any] = model_entrypoint(model_name)
    changed: dict[str, Any] = {"depth": layers}
    if "convnext" in model_name:
        changed = {"depths": (1, 1, 2, 1)}
    elif "fastvit" in model_name:
        stages = 5 if model_name.endswith(("mci3", "mci4")) else 4
        changed = {"layers": (1,) * (stages - 1) + (layers,)}
    if narrow and "convnext" in model_name:
        changed["dims"] = (32, 64, 128, 256)
    elif narrow and model_name in _HEAD_SIZES:  # others keep their width: their stems depend on it
        changed |= {"embed_dim": _HEADS * _HEAD_SIZES[model_name], "num_heads": _HEADS}

    def entry(pretrained: bool = False, **kwargs: Any) -> Any:
        return original(pretrained, **changed, **kwargs)

    entry.__name__ = name
    entry.__module__ = timm.models.eva.__name__
    register_model(entry)
    return name
