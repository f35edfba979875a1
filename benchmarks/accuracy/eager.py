"""Eager float32 PyTorch as the reference of a bundle: open_clip's own transform, tokenizer and model, proved to be the bundle's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engines.inputs.preprocess import normalize_pixels
from engines.manifest import Manifest, Model
from engines.verification.embeddings import compare_embeddings, read_reference
from exporter.errors import ExportError
from exporter.gate.encoders import EagerEncoders, encode_ids, full_precision
from exporter.reference.eager import open_clip_transform
from exporter.source.loading import Source, load_source
from exporter.weights.checkpoint_files import FOLDER_PREFIX

# Between two machines or two thread counts, eager float32 differs from itself by about 1e-6.
SAME_WEIGHTS = 1e-4
_BATCH = 8


@dataclass(frozen=True)
class Eager(EagerEncoders):
    """The model that a bundle was exported from, in float32."""

    error: float  # largest difference from the embeddings that the export kept


def load_eager(bundle: Path, manifest: Manifest, pretrained: str | None, device: str) -> Eager:
    """Load the model that the manifest names, and prove that it is the one.

    Args:
        bundle: the folder; its reference inputs and embeddings are the proof.
        manifest: the bundle's manifest.
        pretrained: a checkpoint file or a folder in open_clip's format; None: the manifest's source, which has no paths.
        device: ``cpu`` or ``cuda``.

    Raises:
        ExportError: the weights are not at hand, or are other ones.
        BundleError: the bundle's reference is damaged.
    """
    has_text = "text" in manifest.towers
    try:
        source = _load(manifest.model, pretrained, has_text)
    except ExportError as error:
        raise ExportError(f"there is no eager PyTorch to compare with: {error}") from error
    # A bare file of a published tag does not bring the tag's preprocessing, which the manifest keeps.
    bare = source.info.source == "checkpoint" != manifest.model.source
    preprocess = manifest.preprocess if bare else source.preprocess
    if source.info.embed_dim != manifest.model.embed_dim or preprocess != manifest.preprocess:
        raise ExportError(
            f"{source.info.name} has another embedding size or preprocessing than the model that {bundle} was exported from: pass "
            "that one's weights with --pretrained, or export again"
        )
    model = source.model.to(device)
    difference = _reference_error(model, bundle, manifest, device)
    if not difference < SAME_WEIGHTS:
        raise ExportError(
            f"eager PyTorch with the weights of {source.info.name} differs from the embeddings that {bundle} was exported with by "
            f"{difference:.1e} (at most {SAME_WEIGHTS:.0e}): pass the weights that were exported with --pretrained, or export again"
        )
    return Eager(model, open_clip_transform(preprocess), source.tokenizer, device, difference)


def _load(model: Model, pretrained: str | None, with_tokenizer: bool) -> Source:
    import open_clip

    name, weights = model.architecture, model.tag
    if pretrained is not None and (pretrained.startswith(FOLDER_PREFIX) or Path(pretrained).is_dir()):
        name = FOLDER_PREFIX + pretrained.removeprefix(FOLDER_PREFIX)
        weights = "none" if model.source == "random" else None
    elif pretrained is not None:
        weights, quick = pretrained, f"{name}-quickgelu"
        name = quick if model.quick_gelu and open_clip.get_model_config(quick) is not None else name
    elif model.source == "checkpoint" or model.name.startswith(FOLDER_PREFIX):
        raise ExportError(f"the bundle keeps the name {model.name}, but not its path: pass that with --pretrained")
    elif model.source == "random":
        name, weights = model.name, "none"
    elif model.source in ("hf-hub", "demo"):
        name, weights = model.name, None
    source = load_source(name, weights, with_tokenizer=with_tokenizer)
    if source.info.quick_gelu != model.quick_gelu:  # exported with --keep-activation
        source = load_source(name, weights, keep_activation=True, with_tokenizer=with_tokenizer)
    return source


def _reference_error(model: Any, bundle: Path, manifest: Manifest, device: str) -> float:
    import torch

    reference = read_reference(bundle, manifest)
    errors = []
    for tower in manifest.towers:
        inputs = reference.inputs[tower]
        if tower == "text":
            embeds = encode_ids(model, torch.from_numpy(inputs.astype(np.int64)), device)
        else:
            parts = []
            with torch.inference_mode(), full_precision():
                for start in range(0, len(inputs), _BATCH):
                    floats = normalize_pixels(inputs[start : start + _BATCH].astype(np.uint8), manifest.preprocess)
                    batch = torch.from_numpy(floats).to(device)
                    parts.append(model.encode_image(batch, normalize=True).float().cpu().numpy())
            embeds = np.concatenate(parts)
        errors.append(compare_embeddings(reference.embeds[tower], embeds).max_abs_error)
    return max(errors)
