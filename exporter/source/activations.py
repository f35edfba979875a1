"""The choice of a model's activation, where its tag and architecture differ, or where a bare checkpoint states none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def guard_activation(
    name: str, tag: str, config: Mapping[str, Any], tag_config: Mapping[str, Any], keep: bool
) -> tuple[bool, list[str]]:
    """Choose the activation (whether it is QuickGELU); returns it, and a note where tag and architecture differ.

    open_clip's list of tags states QuickGELU where a tag was trained with it. A tag without a statement does not contradict an
    architecture with QuickGELU (roberta-ViT-B-32 and its tag are such a pair), so only a statement overrides the architecture.
    """
    built_in = bool(config.get("quick_gelu", False))
    stated = tag_config.get("quick_gelu")
    if stated is None or bool(stated) == built_in:
        return built_in, []
    trained, other = _activation(bool(stated)), _activation(built_in)
    if keep:
        return built_in, [
            f"activation: {other}, kept as {name} says; {tag} was trained with {trained}, so its accuracy will be lower"
        ]
    where = _towers_with_activation(config)
    return bool(stated), [f"activation: {trained} in {where}, as {tag} was trained with, in place of {name}'s {other}"]


def _activation(quick: bool) -> str:
    return "QuickGELU" if quick else "GELU"


def _towers_with_activation(config: Mapping[str, Any]) -> str:
    """The towers that the flag affects; timm's, ResNets and Hugging Face's towers have activations of their own."""
    vision = config["vision_cfg"]
    image = "timm_model_name" not in vision and not isinstance(vision.get("layers"), (list, tuple))
    text = "hf_model_name" not in config["text_cfg"]
    return "both towers" if image and text else "the image tower" if image else "the text tower"


def ambiguity_notes(name: str, own: bool, tags: tuple[str, ...]) -> list[str]:
    """Make notes on the assumed activation and preprocessing of a bare checkpoint, which states neither, where both vary."""
    import open_clip
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    notes = []
    base = name.removesuffix("-quickgelu")
    other = base if own else f"{base}-quickgelu"
    if other in open_clip.list_models():
        notes.append(
            f"activation: {_activation(own)}, as {name} says; the file does not state it, and weights trained with "
            f"{_activation(not own)} want {other} as MODEL"
        )
    default = merge_preprocess_dict(PreprocessCfg(), {})
    keys = ("mean", "std", "interpolation", "resize_mode")
    used = {
        tuple(str(merge_preprocess_dict(default, open_clip.get_pretrained_cfg(name, tag))[k]) for k in keys)
        for tag in tags
    }
    if used - {tuple(str(default[k]) for k in keys)}:
        notes.append(
            f"preprocessing: open_clip's default (bicubic, shortest side, OpenAI's mean and std), but some tags of {name} were "
            "trained with another; a local-dir: folder with open_clip_config.json states its own"
        )
    return notes
