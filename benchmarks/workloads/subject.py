"""The model that is measured, in a bundle or by name, with the data from which a process builds it again.

Needs nothing but the standard library and, for models by name, open_clip: a bare PyTorch image measures eager and compiled models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class Subject:
    """A model and the places of its parts.

    Attributes:
        name: the name in rows: the architecture, or ``demo``.
        source: the name for `exporter.source.loading.load_source` or open_clip: a name of open_clip's, ``demo``, ``hf-hub:…``.
        pretrained: the tag; None for the source's own weights; ``none`` for random ones.
        size: (height, width) of the images in pixels.
        mean, std: mean and standard deviation that normalize pixels, by channel.
        context_length: number of ids in a text.
        bundle: the folder with engines; None: there is none.
        kinds: kinds of engines in the bundle.
        precision: the bundle's precision.
        towers: the bundle's towers; a model by name has both.
    """

    name: str
    source: str
    pretrained: str | None
    size: tuple[int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    context_length: int
    bundle: str | None = None
    kinds: tuple[str, ...] = ()
    precision: str = "fp32"
    towers: tuple[str, ...] = ("image", "text")

    @property
    def image_shape(self) -> str:
        """``224x224``, as rows name it."""
        return f"{self.size[0]}x{self.size[1]}"


def subject_of_bundle(path: Path) -> Subject:
    """The model of a bundle.

    Raises:
        engines.errors.BundleError: it is none.
    """
    from engines.manifest import read_manifest

    manifest = read_manifest(path)
    model = manifest.model
    # A checkpoint's or a local folder's path is not in the manifest: speed is measured with random weights then.
    source, pretrained = {
        "pretrained": (model.architecture, model.tag),
        "hf-hub": (model.name, None),
        "demo": ("demo", None),
    }.get(model.source, (model.architecture, "none"))
    return Subject(
        name=model.name if model.source == "demo" else model.architecture,
        source=source,
        pretrained=pretrained,
        size=manifest.preprocess.size,
        mean=manifest.preprocess.mean,
        std=manifest.preprocess.std,
        context_length=manifest.tokenizer.context_length if manifest.tokenizer is not None else 0,
        bundle=str(path.resolve()),
        kinds=tuple(dict.fromkeys(engine.kind for engine in manifest.engines)),
        precision=manifest.precision,
        towers=tuple(manifest.towers),
    )


def subject_of_model(name: str) -> Subject:
    """An architecture of open_clip's with random weights: speed does not depend on them.

    Raises:
        ValueError: open_clip does not know it.
    """
    import open_clip

    config: Any = open_clip.get_model_config(name)
    if config is None:
        raise ValueError(f"open_clip knows no architecture {name!r}: see python -m exporter --list")
    size = config["vision_cfg"].get("image_size", 224)
    height, width = (size, size) if isinstance(size, int) else size
    return Subject(
        name=name,
        source=name,
        pretrained="none",
        size=(height, width),
        mean=CLIP_MEAN,
        std=CLIP_STD,
        context_length=int(config["text_cfg"].get("context_length", 77)),
    )
