"""The loading of a model by name: weights, the right activation, preprocessing and tokenizer, the last two as plain data.

Random weights (``--pretrained none``) are not open_clip's initialisation but the seeded one of `exporter.weights.random_weights`,
in which every residual branch affects the output.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from engines.manifest import Model, Preprocess
from engines.schema.ranges import NUMBERS
from exporter.errors import ExportError
from exporter.source.model_list import ModelRow, list_models
from exporter.source.origins import HUB_PREFIX, Origin, resolve_origin

if TYPE_CHECKING:
    import torch

__all__ = ["ModelRow", "Source", "list_models", "load_source", "load_tokenizer"]


@dataclass(frozen=True)
class Source:
    """A loaded model, with the data about it for a bundle."""

    model: torch.nn.Module  # open_clip's model, in evaluation mode, without gradients
    info: Model
    preprocess: Preprocess
    tokenizer: Callable[..., torch.Tensor] | None  # open_clip's tokenizer; None if it was not loaded
    text_config: dict[str, Any]  # open_clip's text_cfg
    notes: tuple[str, ...]  # sentences to print about choices, with the reasons


def load_source(
    name: str,
    pretrained: str | os.PathLike[str] | None = None,
    keep_activation: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    with_tokenizer: bool = True,
) -> Source:
    """Load a model by name.

    Args:
        name: an architecture of ``open_clip.list_models()``, ``hf-hub:org/repo``, ``local-dir:PATH`` or ``demo``.
        pretrained: a tag, a checkpoint file (``.safetensors``, ``.pt``, ``.pth``, ``.bin``), ``none`` for random weights of
            seed 0, or None for the tag with a permissive licence and the best published zero-shot ImageNet top-1.
        keep_activation: whether to build with the architecture's activation even if the tag was trained with the other one.
        cache_dir: the folder for downloads; None is the client libraries' own folder.
        dtype: the dtype of the weights in memory; None is ``torch.float32``. Half precision is for models too large otherwise.
        with_tokenizer: whether to load the tokenizer, too, which for Hugging Face text towers may need a download.

    Returns:
        The model with its data. The weights are in memory once, because files are mapped and random weights are filled in place.

    Raises:
        ExportError: the name or tag is unknown (the message has similar names), there is no network, the checkpoint is damaged or
            of another architecture, or loading it would run code.
    """
    import torch

    from engines.files.checksums import file_sha256
    from exporter.weights.checkpoint_reading import read_checkpoint
    from exporter.weights.checkpoints import load_weights
    from exporter.weights.random_weights import fill_random, uninitialized_parameters

    dtype = dtype or torch.float32
    origin = resolve_origin(name, None if pretrained is None else os.fspath(pretrained), keep_activation, cache_dir)
    checkpoint = read_checkpoint(origin.checkpoint) if origin.checkpoint is not None else None
    with uninitialized_parameters():
        model = _build(origin, cache_dir)
    notes = origin.notes
    if origin.checkpoint is not None and checkpoint is not None:
        notes += load_weights(model, checkpoint, origin.checkpoint, origin.architecture, dtype)
        weights = file_sha256(origin.checkpoint)
    else:
        fill_random(model, seed=0, dtype=dtype)
        weights = "random"
    model.eval().requires_grad_(False)
    return Source(
        model=model,
        info=_describe(origin, model, weights),
        preprocess=resolve_preprocess(origin, model),
        tokenizer=load_tokenizer(origin, cache_dir) if with_tokenizer else None,
        text_config=deepcopy(dict(origin.config["text_cfg"])),
        notes=notes,
    )


def _build(origin: Origin, cache_dir: str | os.PathLike[str] | None) -> torch.nn.Module:
    """Build the model of `origin` with arbitrary weights."""
    import open_clip

    from exporter.source.hub import hub_access
    from exporter.weights.architectures import quiet_open_clip

    def create() -> torch.nn.Module:
        with quiet_open_clip():
            return open_clip.create_model(
                origin.build_name,
                load_weights=False,
                pretrained_text=False,
                quick_gelu=origin.quick_gelu,
                cache_dir=str(cache_dir) if cache_dir is not None else None,
            )

    text_name = origin.config["text_cfg"].get("hf_model_name")
    built_in = origin.kind in ("pretrained", "checkpoint") or origin.build_name == origin.architecture
    try:
        if not origin.build_name.startswith(HUB_PREFIX) and (text_name is None or os.path.isdir(text_name)):
            return create()
        remedy = f"put {text_name} into the Hugging Face cache (HF_HOME), or name a mirror in HF_ENDPOINT"
        with hub_access(f"the configuration of the text tower {text_name}", remedy):
            return create()
    except (TypeError, KeyError, AttributeError, ValueError, AssertionError, RuntimeError) as error:
        if built_in:
            raise
        detail = " ".join(str(error).split())[:160]
        raise ExportError(
            f"open_clip cannot build what the configuration of {origin.label} describes: {detail}"
        ) from error


def _describe(origin: Origin, model: Any, weights: str) -> Model:
    bias = getattr(model, "logit_bias", None)
    return Model(
        name=origin.label,
        architecture=origin.architecture,
        tag=origin.tag,
        source=origin.kind,
        weights=weights,
        quick_gelu=origin.quick_gelu,
        embed_dim=int(origin.config["embed_dim"]),
        logit_scale=_logit_scale(origin, model),
        logit_bias=float(bias) if bias is not None else None,
        license=origin.license.id if origin.license else None,
        license_source=origin.license.source if origin.license else None,
    )


def _logit_scale(origin: Origin, model: Any) -> float:
    """The factor of similarities; the checkpoint holds its logarithm."""
    logarithm = float(model.logit_scale)
    _, most = NUMBERS["Model.logit_scale"]
    if math.log(most) < logarithm < math.inf:  # infinity and NaN are reported later, for all tensors at once
        raise ExportError(
            f"logit_scale of {origin.checkpoint or origin.label} is {logarithm:g}, and its exponential is above {most:g}: the "
            "value is wrong, because open_clip stores the logarithm (4.6 for a scale of 100); save the checkpoint with that"
        )
    return math.exp(logarithm)


def resolve_preprocess(origin: Origin, model: Any) -> Preprocess:
    """Resolve the checkpoint's preprocessing at the model's own image size, as open_clip's inference transform does.

    Args:
        origin: the model's origin.
        model: open_clip's model, whose weights do not matter.

    Raises:
        ExportError: a value of the configuration is wrong.
    """
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    config: Mapping[str, Any] = merge_preprocess_dict(PreprocessCfg(), dict(origin.preprocess))
    size = getattr(model.visual, "image_size", None) or config["size"]
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    mode: Any = config["resize_mode"] or "shortest"
    if mode not in ("shortest", "longest", "squash"):
        raise ExportError(f"resize_mode {mode!r} of {origin.label} is none of shortest, longest, squash")
    return Preprocess(
        size=(height, width),
        # open_clip's transform takes its default in place of 0 and of an empty list.
        mean=_triple(config["mean"] or OPENAI_DATASET_MEAN, "mean", origin.label),
        std=_triple(config["std"] or OPENAI_DATASET_STD, "std", origin.label),
        # Everything but bilinear is bicubic at inference, "random" (a training augmentation) included.
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        resize_mode=mode,
        fill_color=_fill_color(config["fill_color"], origin.label),
    )


def _fill_color(value: Any, label: str) -> int | tuple[int, int, int]:
    """Resolve the fill colour, to one number if its channels are equal.

    Fractions are cut off, as in torchvision, and values are limited to 0..255, as in Pillow.
    """
    channels = [value or 0] if isinstance(value, (int, float, type(None))) else value
    numbers = isinstance(channels, (list, tuple)) and all(isinstance(item, (int, float)) for item in channels)
    if not numbers or len(channels) not in (1, 3) or not all(map(math.isfinite, channels)):
        raise ExportError(f"fill_color {value!r} of {label} is neither a number nor three of them, red, green and blue")
    bytes_ = [min(max(int(item), 0), 255) for item in channels]
    return bytes_[0] if len(set(bytes_)) == 1 else (bytes_[0], bytes_[1], bytes_[2])


def _triple(value: Any, field: str, label: str) -> tuple[float, float, float]:
    """Check and return the numbers of the three channels; one number is used for all of them."""
    channels = list(value) if isinstance(value, (list, tuple)) else [value]
    if len(channels) not in (1, 3) or not all(isinstance(item, (int, float)) for item in channels):
        raise ExportError(
            f"{field} {value!r} of {label} is neither a number nor three of them, for red, green and blue"
        )
    least, most = NUMBERS[f"Preprocess.{field}"]
    if not all(least <= item <= most for item in channels):
        raise ExportError(
            f"{field} {value!r} of {label} is out of its range, which is {least:g} to {most:g} for each channel"
        )
    red, green, blue = map(float, channels * (3 // len(channels)))
    return red, green, blue


def load_tokenizer(
    origin: Origin, cache_dir: str | os.PathLike[str] | None = None, download: bool = True
) -> Callable[..., torch.Tensor]:
    """Load open_clip's tokenizer of a model.

    Args:
        origin: the model.
        cache_dir: the folder for downloads; None is the client library's own folder.
        download: whether to download what is not in the cache.

    Returns:
        The tokenizer: texts to int64 ids (N, L).

    Raises:
        DownloadError: files of the tokenizer are not in the cache, and are not downloaded.
        ExportError: it cannot be loaded, or has no vocabulary.
    """
    import open_clip

    from exporter.source.hub import cache_only, hub_access
    from exporter.weights.architectures import quiet_open_clip

    cache = str(cache_dir) if cache_dir is not None else None
    source = origin.config["text_cfg"].get("hf_tokenizer_name")
    is_local = os.path.isdir(source) if source else "siglip" not in origin.build_name.lower()
    is_local = is_local and not origin.build_name.startswith(HUB_PREFIX)
    offline = contextlib.nullcontext() if download else cache_only()
    remedy = "put it into the Hugging Face cache (HF_HOME), name a mirror in HF_ENDPOINT, or export only --towers image"
    try:
        access = hub_access(f"the tokenizer {source or 'of ' + origin.label}", remedy)
        with offline, contextlib.nullcontext() if is_local else access, quiet_open_clip():
            tokenizer: Callable[..., torch.Tensor] = open_clip.get_tokenizer(origin.build_name, cache_dir=cache)
    except ExportError:
        raise
    except Exception as error:  # transformers raises RuntimeError if its imports are broken, and others any error
        detail = " ".join(str(error).split())[:160]
        raise ExportError(f"cannot load the tokenizer of {origin.label}: {detail}") from error
    if not _has_vocabulary(tokenizer):
        raise ExportError(
            f"the tokenizer of {origin.label} has no vocabulary: put tokenizer.json into {source or origin.build_name}, or into "
            "the cache of it"
        )
    return tokenizer


def _has_vocabulary(tokenizer: Callable[..., torch.Tensor]) -> bool:
    """Whether a tokenizer has ids besides those of added tokens: transformers 5 makes one without from a configuration alone."""
    inner = getattr(tokenizer, "tokenizer", None)
    if inner is None or not hasattr(inner, "get_vocab"):
        return True  # open_clip's own, whose vocabulary is part of its package
    return (
        len(inner.get_vocab().keys() - inner.get_added_vocab().keys()) > 1
    )  # T5's has one piece, a space, from the start
