"""The architectures that measurements go through: the classic list, and all that open_clip can build."""

from __future__ import annotations

import fnmatch
import re

# The classic list: ResNet, ViT, ConvNeXt, EVA, CoCa and RoBERTa towers, in order of size.
CLASSIC = (
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-B-16-plus-240",
    "RN50",
    "RN50-quickgelu",
    "RN101",
    "RN101-quickgelu",
    "RN50x4",
    "EVA02-B-16",
    "convnext_base",
    "convnext_base_w",
    "convnext_base_w_320",
    "roberta-ViT-B-32",
    "coca_ViT-B-32",
    "RN50x16",
    "convnext_large_d",
    "convnext_large_d_320",
    "xlm-roberta-base-ViT-B-32",
    "ViT-L-14",
    "ViT-L-14-336",
    "EVA02-L-14",
    "EVA02-L-14-336",
    "RN50x64",
    "coca_ViT-L-14",
    "ViT-H-14",
    "EVA01-g-14",
    "xlm-roberta-large-ViT-H-14",
    "convnext_xxlarge",
    "ViT-g-14",
    "EVA01-g-14-plus",
    "ViT-bigG-14",
    "EVA02-E-14",
    "EVA02-E-14-plus",
)
# From small to large, two of each rank.
_SIZE_LETTERS = (
    "T",
    "S",
    "M",
    "B",
    "L",
    "L2",
    "large",
    "SO400M",
    "XL",
    "xlarge",
    "H",
    "xxlarge",
    "g",
    "gopt",
    "xl",
    "bigG",
    "E",
    "e",
)


def architectures(pattern: str = "*") -> list[str]:
    """Every architecture that open_clip can build and whose name matches `pattern`, with the smaller image towers first."""
    import open_clip

    names = fnmatch.filter(open_clip.list_models(), pattern)
    return sorted(names, key=lambda name: (_size_class(name), name))


def _size_class(name: str) -> int:
    """The place of a name's size in the usual letters; names without one are of base size or smaller."""
    letters = re.findall(
        r"(?:^|[-_])(S|T|M|B|L2?|XL|SO400M|H|gopt|g|bigG|E|e|large|xlarge|xxlarge|xl)(?=[-_]|\d|$)", name
    )
    ranks = [_SIZE_LETTERS.index(letter) // 2 for letter in letters]
    return max(ranks, default=2)
