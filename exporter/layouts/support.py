"""The rules for bundles that the class CLIP of transformers can describe; a refusal names the model and the reason."""

from __future__ import annotations

from collections.abc import Sequence

from engines.manifest import Manifest, Model, Preprocess, Tokenizer, TowerName
from exporter.errors import ExportError

# Precision of a bundle to the suffix of its files; optimum and transformers.js know no suffix for the other precisions.
SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}


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


def check_source(model: Model, preprocess: Preprocess, tokenizer: Tokenizer | None) -> None:
    """Check what is known before any tower is exported.

    Raises:
        ExportError: transformers' ``CLIPModel`` does not describe the model; the sentence names it and the first reason.
    """
    assert tokenizer is not None
    _refuse(model, _reason(model, preprocess, tokenizer))


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
    check_source(manifest.model, manifest.preprocess, tokenizer)
    if length.keep != "end" or length.extra:
        _refuse(
            manifest.model,
            f"its text tower reads the padding of a row (rule {length.keep!r}), and transformers pads a CLIP's rows with the "
            "end token to the longest of a batch",
        )


def _refuse(model: Model, reason: str | None) -> None:
    if reason is not None:
        name = model.name if model.name == model.architecture else f"{model.name} ({model.architecture})"
        raise ExportError(f"{name} has no layout for transformers: {reason}")


def _reason(model: Model, preprocess: Preprocess, tokenizer: Tokenizer) -> str | None:
    """The first reason, in words, why the model is no CLIP of transformers; None if it is one."""
    if model.logit_bias is not None:
        return "it was trained with a sigmoid loss and has a logit bias, and transformers' CLIP has a softmax and none"
    if tokenizer.strip_sep_token or tokenizer.last_id is not None:
        return "its tokenizer changes ids after the padding, and no tokenizer of transformers does"
    if tokenizer.clean != "lower":
        return f"its tokenizer cleans texts in the way {tokenizer.clean!r}, and CLIPTokenizerFast only lowers the case"
    if preprocess.resize_mode == "longest":
        return "its images are padded to a square (resize mode 'longest'), and CLIPImageProcessor crops"
    if preprocess.resize_mode == "shortest" and preprocess.size[0] != preprocess.size[1]:
        size = f"{preprocess.size[0]} x {preprocess.size[1]}"
        return f"its crop of {size} pixels is no square, and CLIPImageProcessor's resize is for squares"
    return None
