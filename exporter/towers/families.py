"""The families of image and text towers of open_clip, which are rebuilt from the same parameters, one module for each family.

Each module has ``encoder_of_image`` or ``encoder_of_text``, which returns an encoder for towers of its family and None for
others. A tower without a family is traced as it is (`exporter.towers.modules`), in one unit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from exporter.towers import clip_transformer, convnext, eva, fastvit, m2m100, resnet, roberta, timm_vit
from exporter.towers.units import ImageEncoder, TextEncoder

IMAGE_FAMILIES: tuple[Callable[[Any], ImageEncoder | None], ...] = (
    clip_transformer.encoder_of_image,
    resnet.encoder_of_image,
    eva.encoder_of_image,
    convnext.encoder_of_image,
    timm_vit.encoder_of_image,
    fastvit.encoder_of_image,
)
TEXT_FAMILIES: tuple[Callable[[Any], TextEncoder | None], ...] = (
    clip_transformer.encoder_of_text,
    roberta.encoder_of_text,
    m2m100.encoder_of_text,
)
