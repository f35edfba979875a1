"""Image and text towers of open_clip rebuilt from the same parameters, one file per family.

Each file offers ``encoder_of_image`` or ``encoder_of_text``: it returns an encoder for the modules that it knows and None for
others. A tower that no family knows is traced as it is (`exporter.towers.modules`), in one unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exporter.towers import clip_transformer, convnext, eva, resnet, roberta
from exporter.towers.units import ImageEncoder, TextEncoder

IMAGE_FAMILIES: tuple[Callable[[Any], ImageEncoder | None], ...] = (
    clip_transformer.encoder_of_image,
    resnet.encoder_of_image,
    eva.encoder_of_image,
    convnext.encoder_of_image,
)
TEXT_FAMILIES: tuple[Callable[[Any], TextEncoder | None], ...] = (
    clip_transformer.encoder_of_text,
    roberta.encoder_of_text,
)
