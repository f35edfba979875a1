"""Planned swaps at the two ends of a tower: from bytes to the patches of the first product, and unit length after the last one."""

from __future__ import annotations

from typing import Any

from torch import nn

from kernels.blocks import FusedL2Normalize, FusedPatchStem
from kernels.choices import NATIVE
from kernels.plan import Plan, class_path

_NORMALIZE_PIXELS, _L2_NORMALIZE = "exporter.towers.modules.NormalizePixels", "exporter.towers.blocks.L2Normalize"
# Stems whose first convolution is a product over patches; the rest of the stem is a method `assemble`.
_PATCH_STEMS = ("exporter.towers.clip_transformer.PatchStem", "exporter.towers.timm_tokens.TokenStem")
_CONVOLUTION_STEMS = (
    "exporter.towers.resnet.ConvolutionStem",
    "exporter.towers.convnext.ConvNextStem",
    "exporter.towers.fastvit.FastVitUnit",
)


def plan_ends(tower: Any, plan: Plan) -> None:
    """Plan ``normalize_image`` for the stem of an image tower and ``l2_normalize`` for any tower."""
    stem = tower.encoder.stem
    if class_path(stem) in _PATCH_STEMS:
        _plan_stem(tower, stem, plan)
    elif class_path(stem) in _CONVOLUTION_STEMS:
        plan.kept["stem of convolutions"] += 1
    if class_path(getattr(tower, "unit_length", None)) != _L2_NORMALIZE:
        return
    # No width is passed, because saving a launch gains the same at any width.
    if plan.choose("l2_normalize", (plan.rows, None), ("triton",)) != NATIVE:
        plan.places.append((tower, "unit_length", FusedL2Normalize()))
        plan.swapped["l2_normalize"] += 1
    else:
        plan.kept["unit length"] += 1


def _plan_stem(tower: Any, stem: Any, plan: Plan) -> None:
    normalize, convolution = tower.normalize, stem.patches
    if class_path(normalize) != _NORMALIZE_PIXELS:
        plan.kept["patches of float32 pixels"] += 1
    elif not _is_over_patches(convolution):
        plan.kept["patches of another convolution"] += 1
    elif plan.choose("patches", _shape(plan, normalize.size, convolution), ("normalize_image",)) != NATIVE:
        fused = FusedPatchStem(stem, convolution, normalize.mean, normalize.std)
        plan.places += [
            (tower, "normalize", nn.Identity()),
            (tower.encoder, "stem", fused),
            (stem, "patches", nn.Identity()),
        ]
        plan.swapped["normalize_image"] += 1
    else:
        plan.kept["patches"] += 1


def _shape(plan: Plan, size: tuple[int, int], convolution: Any) -> tuple[int | None, ...]:
    return (plan.rows, *size, int(convolution.kernel_size[0]), int(convolution.out_channels))


def _is_over_patches(module: object) -> bool:
    """Whether a module is a plain convolution over three channels whose square windows meet without a gap."""
    if type(module) is not nn.Conv2d:
        return False
    height, width = module.kernel_size
    return (
        height == width
        and module.stride == module.kernel_size
        and module.padding in ((0, 0), "valid")
        and module.dilation == (1, 1)
        and module.in_channels == 3
        and module.groups == 1
    )
