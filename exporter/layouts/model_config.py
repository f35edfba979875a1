"""``config.json`` and ``preprocessor_config.json`` of transformers' CLIP, made of a bundle's manifest."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from engines.manifest import Manifest

_PILLOW = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers of the filters, which image processors take


def write_configs(manifest: Manifest, out: Path, beside: list[str]) -> None:
    """Write both files into the folder `out`.

    ``config.json`` describes what enters and leaves the graphs; widths and depths of the towers are only in the graphs themselves.

    Args:
        manifest: the bundle's manifest.
        out: an existing folder.
        beside: the names of the graphs whose weights are in a file beside them, such as ``model.onnx``.
    """
    _write(out / "config.json", _config(manifest, beside))
    _write(out / "preprocessor_config.json", _preprocessing(manifest))


def _config(manifest: Manifest, beside: list[str]) -> dict[str, Any]:
    model, tokenizer = manifest.model, manifest.tokenizer
    assert tokenizer is not None
    config: dict[str, Any] = {
        "model_type": "clip",
        "architectures": ["CLIPModel"],
        "projection_dim": model.embed_dim,
        "logit_scale_init_value": math.log(model.logit_scale),
        "text_config": {
            "model_type": "clip_text_model",
            "projection_dim": model.embed_dim,
            "vocab_size": tokenizer.vocab_size,
            "max_position_embeddings": tokenizer.context_length,
            "bos_token_id": tokenizer.end_id - 1,
            "eos_token_id": tokenizer.end_id,
            "pad_token_id": tokenizer.end_id,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "projection_dim": model.embed_dim,
            "image_size": manifest.preprocess.size[0],
        },
        "openclip_engines": {"architecture": model.architecture, "weights": model.weights},
    }
    if beside:
        config["transformers.js_config"] = {"use_external_data_format": dict.fromkeys(beside, 1)}
    return config


def _preprocessing(manifest: Manifest) -> dict[str, Any]:
    preprocess = manifest.preprocess
    height, width = preprocess.size
    whole = {"height": height, "width": width}
    shortest = preprocess.resize_mode == "shortest"
    return {
        "image_processor_type": "CLIPImageProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
        "processor_class": "CLIPProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": height} if shortest else whole,
        "resample": _PILLOW[preprocess.interpolation],
        "do_center_crop": shortest,
        "crop_size": whole,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
