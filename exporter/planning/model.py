"""The model of a plan: its origin and the sizes of its towers, from the configuration alone.

open_clip's own model is built on PyTorch's meta device, where tensors have shapes and no values, so that counting takes no memory.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from engines.manifest import Preprocess
from exporter.errors import ExportError
from exporter.planning.downloads import Download, missing_tokenizer, missing_weights
from exporter.source.hub import cache_only
from exporter.source.licences import repository_of
from exporter.source.loading import resolve_preprocess
from exporter.source.origins import HUB_PREFIX, Origin, resolve_origin
from exporter.weights.architectures import quiet_open_clip


@dataclass(frozen=True)
class TowerSize:
    """Sizes of a tower.

    Attributes:
        parameters: number of parameters.
        matrices: number of those in the matrices of linear layers and convolutions, which quantization makes narrow.
        flops: floating-point operations for one image, or one text of full length; None: not known.
    """

    parameters: int
    matrices: int
    flops: float | None


@dataclass(frozen=True)
class PlannedModel:
    """A model that is not loaded.

    Attributes:
        origin: the resolved name; its checkpoint is None where it is not on this machine (or random).
        preprocess: the preprocessing of pictures.
        towers: tower to its sizes; a tower whose configuration is on the hub alone is missing.
        parameters: number of the whole model's parameters; None where a tower's are not known.
        notes: sentences about what is not known here.
        downloads: the data that are not on this machine.
    """

    origin: Origin
    preprocess: Preprocess
    towers: dict[str, TowerSize]
    parameters: int | None
    notes: tuple[str, ...] = field(default=())
    downloads: tuple[Download, ...] = field(default=())


def plan_model(
    name: str,
    pretrained: str | None,
    keep_activation: bool,
    cache_dir: str | os.PathLike[str] | None,
    with_tokenizer: bool = True,
) -> PlannedModel:
    """Resolve a model's name and count its towers' parameters, without a download.

    Args:
        name: see `exporter.source.origins.resolve_origin`, as for the other arguments.
        pretrained: the tag, checkpoint file or ``none``.
        keep_activation: whether the architecture's activation stays.
        cache_dir: the folder for downloads.
        with_tokenizer: whether the tokenizer is needed, too.

    Raises:
        ExportError: the name or tag is unknown, or a repository's configuration is neither in the cache nor known to open_clip; or
            the tokenizer is on this machine and cannot be loaded.
    """
    with cache_only():
        origin, notes = _origin(name, pretrained, keep_activation, cache_dir)
        model, text_known = _build(origin, cache_dir)
    text = origin.config["text_cfg"]
    downloads: tuple[Download, ...] = (Download(f"the configuration of {name}"),) if notes else ()
    downloads += missing_weights(origin)
    if not text_known:
        tower = text.get("hf_model_name")
        notes += (f"the text tower {tower} is described on the Hugging Face hub, and the cache does not have it",)
        downloads += (Download(f"the configuration of the text tower {tower}"),)
    tokenizer = missing_tokenizer(origin, cache_dir) if with_tokenizer else ()
    notes += tuple(f"{item.what} is on the Hugging Face hub, and the cache does not have it" for item in tokenizer)
    downloads += tokenizer
    preprocess = resolve_preprocess(origin, model)
    height, width = preprocess.size
    tensors = tower_parameters(model)
    flops = _counted(lambda: model.encode_image(_meta(1, 3, height, width)))
    if flops is None:
        notes += (
            "the operations of the image tower are not known, because they depend on the values of its weights or pictures",
        )
    towers = {"image": _size(model, tensors["image"], flops)}
    if text_known:
        sizes = _size(model, tensors["text"], None)
        context = int(text.get("context_length", 77))
        towers["text"] = TowerSize(sizes.parameters, sizes.matrices, 2.0 * sizes.matrices * context)
    whole = sum(p.numel() for p in model.parameters()) if text_known else None
    return PlannedModel(origin, preprocess, towers, whole, notes, downloads)


def tower_parameters(model: Any) -> dict[str, list[torch.Tensor]]:
    """The parameters of both towers of open_clip's model; parts of neither (scale, CoCa's decoder) are left out."""
    image = list(model.visual.parameters())
    if hasattr(model, "text"):
        return {"image": image, "text": list(model.text.parameters())}
    text: list[torch.Tensor] = []
    for name in ("transformer", "token_embedding", "ln_final", "positional_embedding", "text_projection"):
        part = getattr(model, name, None)
        if isinstance(part, torch.nn.Module):
            text += part.parameters()
        elif part is not None:
            text.append(part)
    return {"image": image, "text": text}


def _origin(
    name: str, pretrained: str | None, keep_activation: bool, cache_dir: str | os.PathLike[str] | None
) -> tuple[Origin, tuple[str, ...]]:
    try:
        return resolve_origin(name, pretrained, keep_activation, cache_dir, download=False), ()
    except ExportError:
        known = _tag_of_repository(name.removeprefix(HUB_PREFIX)) if name.startswith(HUB_PREFIX) else None
        if known is None:
            if not name.startswith(HUB_PREFIX):
                raise
            raise ExportError(
                f"the configuration of {name} is not in the local cache, and --dry-run downloads nothing: leave --dry-run out, or "
                "name the architecture and its tag (python -m exporter --list)"
            ) from None
        note = f"the configuration of {name} is not in the cache: planned as {known[0]} {known[1]}, which open_clip has there"
        return resolve_origin(*known, keep_activation, cache_dir, download=False), (note,)


def _tag_of_repository(repository: str) -> tuple[str, str] | None:
    """The architecture and tag whose weights open_clip takes from a repository of the hub; None if there are none."""
    import open_clip

    for architecture, tag in open_clip.list_pretrained():
        if repository_of(open_clip.get_pretrained_cfg(architecture, tag)) == repository:
            return architecture, tag
    return None


def _build(origin: Origin, cache_dir: str | os.PathLike[str] | None) -> tuple[Any, bool]:
    """open_clip's model on the meta device, and whether its text tower is the real one, or a small one in its place."""
    import open_clip

    try:
        with quiet_open_clip(), torch.device("meta"):
            model = open_clip.create_model(
                origin.build_name,
                device="meta",
                load_weights=False,
                pretrained_text=False,
                quick_gelu=origin.quick_gelu,
                cache_dir=None if cache_dir is None else str(cache_dir),
            )
        return model.to("meta").eval(), True
    except Exception as error:  # transformers raises OSError and others where it has no configuration
        if "hf_model_name" not in origin.config["text_cfg"]:
            detail = " ".join(str(error).split())[:160]
            raise ExportError(
                f"open_clip cannot build what the configuration of {origin.label} describes: {detail}"
            ) from error
    text = {"context_length": 8, "vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    with quiet_open_clip(), torch.device("meta"):
        model = open_clip.CustomTextCLIP(
            origin.config["embed_dim"], origin.config["vision_cfg"], text, quick_gelu=origin.quick_gelu
        )
    return model.to("meta").eval(), False


def _size(model: Any, parameters: list[torch.Tensor], flops: float | None) -> TowerSize:
    tables = {id(module.weight) for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    narrow = [p for p in parameters if p.ndim >= 2 and math.prod(p.shape[1:]) > 1 and id(p) not in tables]
    return TowerSize(sum(p.numel() for p in parameters), sum(p.numel() for p in narrow), flops)


def _meta(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta")


def _counted(run: Callable[[], Any]) -> float | None:
    """The floating-point operations of a function; None where it looks at values, which the meta device does not have."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        # With gradients: without them PyTorch takes a path through attention that the counter does not see.
        with counter:
            run()
    except (RuntimeError, NotImplementedError):
        return None
    return float(counter.get_total_flops())
