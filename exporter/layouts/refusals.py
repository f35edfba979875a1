"""Why a bundle cannot be laid out for Hugging Face's CLIP classes, where it cannot."""

from __future__ import annotations

from engines.manifest import Manifest

SUFFIXES = {"fp32": "", "fp16": "_fp16", "int8": "_quantized"}  # as transformers.js names the files of a precision


def why_not(manifest: Manifest) -> str | None:
    """Return the reason in words that follow the model's name, or None: the bundle can be laid out.

    ``CLIPModel``'s ports tokenize with CLIP's own vocabulary, pool the end-of-text token of a causal text tower, and resize the
    shorter side or squash the picture.
    """
    tokenizer, text = manifest.tokenizer, manifest.towers.get("text")
    if manifest.precision not in SUFFIXES:
        return f"has no file name there in {manifest.precision}: use a bundle in {', '.join(SUFFIXES)}"
    if "image" not in manifest.towers or text is None or tokenizer is None:
        return "lacks a tower: CLIPModel needs an image and a text tower"
    if tokenizer.clean != "lower" or tokenizer.last_id is not None or tokenizer.strip_sep_token:
        return "has a tokenizer that is not CLIP's: CLIPTokenizer cannot read it"
    if text.length is None or text.length.keep != "end" or text.length.extra:
        return "has a text tower that sees the padding: CLIPModel's ports pad to the longest caption of a batch"
    if manifest.preprocess.resize_mode == "longest":
        return "pads pictures to a square, which CLIPImageProcessor cannot"
    return None
