"""The origin of a model: the user's MODEL and --pretrained, resolved to plain data for building and loading."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from exporter.errors import ExportError
from exporter.source.activations import ambiguity_notes, guard_activation
from exporter.source.hub import cache_only, hub_access
from exporter.source.licences import License, license_of_repository, license_of_tag
from exporter.source.model_list import choose_default_tag, published_figures, suggest, tags_of, without_default
from exporter.weights.checkpoint_files import CONFIG_NAME, FOLDER_PREFIX, SUFFIXES, find_checkpoint, readable

RANDOM = "none"
DEMO_FOLDER = Path(__file__).parents[1] / "demo" / "model"
HUB_PREFIX = "hf-hub:"
DEMO_LICENSE = License("MIT", "LICENSE of openclip-engines")
_OFFLINE_REMEDY = (
    "pass a checkpoint file with --pretrained PATH or a folder as local-dir:PATH, copy the Hugging Face cache of a machine "
    "that has it (HF_HOME), name a mirror in HF_ENDPOINT, or take random weights with --pretrained none"
)

Kind = Literal["pretrained", "checkpoint", "hf-hub", "local-dir", "demo", "random"]


@dataclass(frozen=True)
class Origin:
    """A resolved MODEL and --pretrained: the data that building and loading need, before anything is built."""

    label: str  # the name in messages, manifests and file names
    build_name: str  # the name for open_clip's create_model and get_tokenizer
    architecture: str
    kind: Kind
    tag: str | None
    config: Mapping[str, Any]  # open_clip's model_cfg
    preprocess: Mapping[str, Any]  # the values that replace open_clip's PreprocessCfg defaults
    quick_gelu: bool  # the activation to build with
    checkpoint: Path | None  # None: random weights
    notes: tuple[str, ...]
    license: License | None = None  # the licence of the weights; None: random weights, or the user's own


def resolve_origin(
    name: str,
    pretrained: str | None = None,
    keep_activation: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = True,
) -> Origin:
    """Resolve `name` and `pretrained`, and download the checkpoint if they name one on the hub.

    Args:
        name: an architecture of ``open_clip.list_models()``, ``hf-hub:org/repo``, ``local-dir:PATH`` or ``demo``.
        pretrained: a tag of the architecture, a checkpoint file, ``none`` for random weights, or None for the default tag,
            which always has a permissive licence; a tag with a restricted licence is taken with a note if it is named.
        keep_activation: whether to build with the architecture's activation even if the tag was trained with the other one.
        cache_dir: the folder for downloads; None is the client libraries' own folder.
        download: whether to download what is not in the cache. If not, the checkpoint of such an origin is None.

    Raises:
        ExportError: the name or tag is unknown, no tag has a permissive licence and none is named, a file does not exist, there
            is no network, or a folder is not in open_clip's format.
    """
    if name == "demo" or name.startswith(FOLDER_PREFIX):
        return _from_folder(name, pretrained)
    if name.startswith(HUB_PREFIX):
        return _from_hub(name, pretrained, cache_dir, download)
    return _from_architecture(name, pretrained, keep_activation, cache_dir, download)


def _from_folder(name: str, pretrained: str | None) -> Origin:
    demo = name == "demo"
    folder = DEMO_FOLDER if demo else Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if demo and not (folder / CONFIG_NAME).is_file():
        raise ExportError(f"the demo model is not at {folder}; make it with `python -m exporter.demo.train`")
    if not demo and name == FOLDER_PREFIX:
        raise ExportError("local-dir: wants a path after the colon: local-dir:/models/my-clip")
    with readable(folder):
        if not folder.is_dir():
            raise ExportError(f"no such folder: {folder}")
    config = _read_config(folder / CONFIG_NAME)
    is_random = _only_random(name, pretrained)
    label = "demo" if demo else f"{FOLDER_PREFIX}{folder.resolve().name}"
    kind: Kind = "random" if is_random else "demo" if demo else "local-dir"
    checkpoint = None if is_random else find_checkpoint(folder)
    note = _random_note() if checkpoint is None else f"weights: {checkpoint.name} in {folder}"
    terms = DEMO_LICENSE if kind == "demo" else None
    return _from_config(label, f"{FOLDER_PREFIX}{folder}", label, kind, config, checkpoint, (note,), terms)


def _from_hub(name: str, pretrained: str | None, cache_dir: str | os.PathLike[str] | None, download: bool) -> Origin:
    from open_clip.pretrained import download_pretrained_from_hf

    repository = name.removeprefix(HUB_PREFIX)
    if not repository:
        raise ExportError("hf-hub: wants a repository after the colon: hf-hub:laion/CLIP-ViT-B-32-laion2B-s34B-b79K")
    is_random = _only_random(name, pretrained)
    cache = str(cache_dir) if cache_dir is not None else None
    checkpoint, terms, notes = None, None, [_random_note()]
    with hub_access(f"{name}", _OFFLINE_REMEDY):
        config = _read_config(Path(download_pretrained_from_hf(repository, filename=CONFIG_NAME, cache_dir=cache)))
        if not is_random:
            with contextlib.nullcontext() if download else contextlib.suppress(Exception):  # it is not in the cache
                checkpoint = Path(download_pretrained_from_hf(repository, cache_dir=cache))
            terms = license_of_repository(repository, cache_dir)
            file = "weights" if checkpoint is None else checkpoint.name
            notes = [f"weights: {file} of {repository} on the Hugging Face hub ({terms.id})", *terms.notes]
    kind: Kind = "random" if is_random else "hf-hub"
    return _from_config(name, name, repository, kind, config, checkpoint, tuple(notes), terms)


def _from_config(
    label: str,
    build_name: str,
    own_name: str,
    kind: Kind,
    config: dict[str, Any],
    checkpoint: Path | None,
    notes: tuple[str, ...],
    terms: License | None,
) -> Origin:
    model_config = config["model_cfg"]
    return Origin(
        label=label,
        build_name=build_name,
        architecture=_known_architecture(model_config) or own_name,
        kind=kind,
        tag=None,
        config=model_config,
        preprocess=config.get("preprocess_cfg") or {},
        quick_gelu=bool(model_config.get("quick_gelu", False)),
        checkpoint=checkpoint,
        notes=notes,
        license=terms,
    )


def _from_architecture(
    name: str,
    pretrained: str | None,
    keep_activation: bool,
    cache_dir: str | os.PathLike[str] | None,
    download: bool,
) -> Origin:
    import open_clip

    config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if config is None:
        raise ExportError(_unknown_model(name, open_clip.list_models()))
    built_in = bool(config.get("quick_gelu", False))
    tags = tags_of(name)
    if pretrained == RANDOM:
        return Origin(name, name, name, "random", None, config, {}, built_in, None, (_random_note(),))
    notes: list[str] = []
    if pretrained is None:
        default = choose_default_tag(name, tags)
        if default is None:
            raise ExportError(without_default(name, tags))
        pretrained, terms = default.tag, default.license
        notes.append(f"weights: {default.tag} ({default.reason})")
    elif pretrained != "":
        tag_config = open_clip.get_pretrained_cfg(name, pretrained)
        if not tag_config:
            path = _checkpoint_path(name, pretrained, tags)
            notes += [f"weights: {path}", *ambiguity_notes(name, built_in, tags)]
            return Origin(path.name, name, name, "checkpoint", None, config, {}, built_in, path, tuple(notes))
        pretrained = next(tag for tag in tags if open_clip.get_pretrained_cfg(name, tag) is tag_config)
        figure = published_figures().get((name, pretrained))
        terms = license_of_tag(name, pretrained)
        accuracy = f"; ImageNet zero-shot {figure.top1:.1f} %" if figure else ""
        notes += [f"weights: {pretrained} ({terms.id}{accuracy})", *terms.notes]
    else:
        raise ExportError(
            f"--pretrained is empty; name a tag of {name} ({', '.join(tags) or 'it has none'}), a file, or none"
        )
    tag_config = open_clip.get_pretrained_cfg(name, pretrained)
    quick_gelu, activation_notes = guard_activation(name, pretrained, config, tag_config, keep_activation)
    checkpoint = (
        _checkpoint_of_tag(name, pretrained, tag_config, cache_dir) if download else _cached(tag_config, cache_dir)
    )
    notes += activation_notes
    return Origin(
        name,
        name,
        name,
        "pretrained",
        pretrained,
        config,
        tag_config,
        quick_gelu,
        checkpoint,
        tuple(notes),
        terms,
    )


def _checkpoint_of_tag(
    name: str, tag: str, tag_config: Mapping[str, Any], cache_dir: str | os.PathLike[str] | None
) -> Path:
    """Download a tag's checkpoint, unless the cache has it."""
    import open_clip

    cache = str(cache_dir) if cache_dir is not None else None
    with hub_access(f"the weights {tag} of {name}", _OFFLINE_REMEDY):
        return Path(open_clip.download_pretrained(tag_config, cache_dir=cache))


def _cached(tag_config: Mapping[str, Any], cache_dir: str | os.PathLike[str] | None) -> Path | None:
    """A tag's checkpoint in the cache; None if it is not there."""
    import open_clip

    if not tag_config.get("hf_hub"):
        file = Path(cache_dir or Path.home() / ".cache" / "clip") / Path(str(tag_config.get("url", ""))).name
        return file if file.is_file() else None
    with (
        cache_only(),
        contextlib.suppress(Exception),
    ):  # the classes of the clients' errors differ between their releases
        return Path(
            open_clip.download_pretrained(tag_config, cache_dir=str(cache_dir) if cache_dir is not None else None)
        )
    return None


def _checkpoint_path(name: str, pretrained: str, tags: tuple[str, ...]) -> Path:
    path = Path(pretrained).expanduser()
    looks_like_path = os.sep in pretrained or path.suffix in SUFFIXES
    with readable(path):
        if path.exists() or looks_like_path:
            if path.is_dir():
                raise ExportError(
                    f"{path} is a folder; for a folder in open_clip's format pass {FOLDER_PREFIX}{path} as MODEL"
                )
            if not path.is_file():
                raise ExportError(f"no such checkpoint: {path}")
            return path
    known = (
        f"its tags: {', '.join(tags)}" if tags else "it has no tags: pass a checkpoint file, or none for random weights"
    )
    raise ExportError(f"unknown tag {pretrained!r} of {name}{suggest(pretrained, [*tags, RANDOM])}; {known}")


def _only_random(name: str, pretrained: str | None) -> bool:
    if pretrained not in (None, RANDOM):
        raise ExportError(
            f"{name} brings its own weights; drop --pretrained {pretrained}, or pass none for random weights"
        )
    return pretrained == RANDOM


def _random_note() -> str:
    return "weights: random (seed 0); the embeddings mean nothing"


def _unknown_model(name: str, names: list[str]) -> str:
    path = Path(name).expanduser()
    if (path / CONFIG_NAME).is_file():
        return f"{name} is a folder in open_clip's format: pass {FOLDER_PREFIX}{name}"
    if path.suffix in SUFFIXES:
        return f"{name} is a checkpoint, not an architecture: pass the architecture as MODEL and the file as --pretrained {name}"
    known = suggest(name, [*names, "demo"])
    if not known and name.count("/") == 1:
        known = f" (a repository of the Hugging Face hub is named {HUB_PREFIX}{name})"
    return f"unknown model {name!r}{known}; `python -m exporter --list` names all"


def _read_config(path: Path) -> dict[str, Any]:
    """Read ``open_clip_config.json``, and check that it has the keys that building needs."""
    with readable(path):
        if not path.is_file():
            raise ExportError(f"{path.parent} is not in open_clip's format: it has no {CONFIG_NAME}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ExportError(f"{path} is not readable JSON ({error})") from error
    model = config.get("model_cfg") if isinstance(config, dict) else None
    wanted = ("embed_dim", "vision_cfg", "text_cfg")
    if not isinstance(model, dict) or not all(key in model for key in wanted):
        raise ExportError(f"{path} describes no model: it needs model_cfg with {', '.join(wanted)}")
    return config


def _known_architecture(config: Mapping[str, Any]) -> str | None:
    """The name in ``open_clip.list_models()`` with the same configuration; None if there is none."""
    import open_clip

    return next((name for name in open_clip.list_models() if open_clip.get_model_config(name) == config), None)
