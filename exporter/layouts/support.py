"""The rules for bundles that the class CLIP of transformers can describe; a refusal names the model and the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from engines.manifest import Manifest, Model, Preprocess, TextLength, Tokenizer, TowerName
from exporter.errors import ExportError

# Precision of a bundle to the suffix of its files; optimum and transformers.js know no suffix for the other precisions.
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}

_LOGIT_BIAS = "it was trained with a sigmoid loss and has a logit bias, and transformers' CLIP has a softmax and none"
_IDS_AFTER_PADDING = "its tokenizer changes ids after the padding, and no tokenizer of transformers does"


def check_request(precision: str, towers: Sequence[TowerName], kinds: Sequence[str]) -> None:
    """Check what is known before a model is loaded.

    Raises:
        ExportError: the precision has no file name in the layout, one tower alone is exported, or no graph for ONNX Runtime.
    """
    if precision not in SUFFIXES:
        flags = ", ".join(f"--{name}" for name in SUFFIXES)
        raise ExportError(f"a layout for transformers has no file name for {precision}: export with one of {flags}")
    if set(towers) != {"image", "text"}:
        raise ExportError("a layout for transformers needs both towers: export without --towers")
    if "onnxruntime" not in kinds:
        raise ExportError("a layout for transformers is for ONNX Runtime: export with --engine onnxruntime")


def check_config(
    name: str, architecture: str, text: Mapping[str, Any], has_logit_bias: bool, preprocess: Preprocess | None
) -> None:
    """Check what open_clip's configuration of a model says, before any tower is exported.

    Args:
        name: the model's name, as messages have it.
        architecture: its architecture.
        text: open_clip's ``text_cfg``.
        has_logit_bias: whether the model has a logit bias.
        preprocess: the model's preprocessing; None: not known yet, because it depends on the model.

    Raises:
        ExportError: transformers' ``CLIPModel`` does not describe the model; the sentence names it and the first reason.
    """
    tokenizer = text.get("tokenizer_kwargs") or {}
    clean = tokenizer.get("clean", "whitespace" if text.get("hf_tokenizer_name") else "lower")
    reason = None
    if has_logit_bias:
        reason = _LOGIT_BIAS
    elif tokenizer.get("strip_sep_token") or text.get("tokenizer_mode") == "clips":
        reason = _IDS_AFTER_PADDING
    elif clean != "lower":
        reason = _cleaned(clean)
    elif text.get("embed_cls"):
        reason = _reads_padding("its text tower has a token of its own behind the text")
    elif text.get("no_causal_mask"):
        reason = _reads_padding("its text tower has no causal mask")
    elif text.get("pool_type", "argmax") not in ("argmax", "eos"):
        reason = _reads_padding(f"its text tower pools in the way {text['pool_type']!r}")
    _refuse(name, architecture, reason or (_pictures(preprocess) if preprocess is not None else None))


def check_supported(manifest: Manifest) -> None:
    """Check that transformers' ``CLIPModel`` describes a bundle's model.

    Raises:
        ExportError: it does not; the sentence names the model and the first reason.
    """
    for tower in manifest.towers:
        kinds = [engine.kind for engine in manifest.engines if engine.tower == tower]
        check_request(manifest.precision, list(manifest.towers), kinds)
    tokenizer, length = manifest.tokenizer, manifest.towers["text"].length
    assert tokenizer is not None
    assert length is not None
    model = manifest.model
    _refuse(model.name, model.architecture, _reason(model, manifest.preprocess, tokenizer, length))


def _refuse(name: str, architecture: str, reason: str | None) -> None:
    if reason is not None:
        label = name if name == architecture else f"{name} ({architecture})"
        raise ExportError(f"{label} has no layout for transformers: {reason}")


def _reason(model: Model, preprocess: Preprocess, tokenizer: Tokenizer, length: TextLength) -> str | None:
    """The first reason, in words, why the model is no CLIP of transformers; None if it is one."""
    if model.logit_bias is not None:
        return _LOGIT_BIAS
    if tokenizer.strip_sep_token or tokenizer.last_id is not None:
        return _IDS_AFTER_PADDING
    if tokenizer.clean != "lower":
        return _cleaned(tokenizer.clean)
    if length.keep != "end" or length.extra:
        return _reads_padding(f"its text tower reads the padding of a row (rule {length.keep!r})")
    return _pictures(preprocess)


def _cleaned(clean: str) -> str:
    return f"its tokenizer cleans texts in the way {clean!r}, and CLIPTokenizerFast only lowers the case"


def _reads_padding(why: str) -> str:
    return f"{why}, and transformers pads a CLIP's rows with the end token to the longest of a batch"


def _pictures(preprocess: Preprocess) -> str | None:
    if preprocess.resize_mode == "longest":
        return "its images are padded to a square (resize mode 'longest'), and CLIPImageProcessor crops"
    if preprocess.resize_mode == "shortest" and preprocess.size[0] != preprocess.size[1]:
        size = f"{preprocess.size[0]} x {preprocess.size[1]}"
        return f"its crop of {size} pixels is no square, and CLIPImageProcessor's resize is for squares"
    return None
