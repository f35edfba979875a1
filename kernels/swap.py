"""Fused modules in the place of native ones, in a whole tower: all that are known, or nothing.

A tower is `exporter.towers`' ImageTower or TextTower, or `exporter.packed_text`'s: every family of the model list, rebuilt from the
same few blocks. They are known here by their classes' names, for this package imports no other of ours. First everything is looked
at and the new modules are made, over the same parameters; only when no block is unknown they take their places, so that no tower is
ever half swapped.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from kernels.blocks import (
    FusedBranch,
    FusedGelu,
    FusedMlp,
    FusedPackedAttention,
    FusedPostNorm,
    FusedSelfAttention,
    FusedStack,
)
from kernels.choices import choose
from kernels.plan import Mode, Plan, SwapReport, UnknownBlockError, kind, unknown
from kernels.swap_ends import plan_ends

__all__ = ["MODES", "Mode", "SwapReport", "UnknownBlockError", "swap"]

MODES: tuple[Mode, ...] = ("auto", "triton", "native")

_BLOCK, _RESIDUAL, _POST_NORM = "exporter.units.Block", "exporter.units.Residual", "exporter.units.PostNormResidual"
_SELF_ATTENTION, _FIRST_TOKEN = "exporter.blocks.SelfAttention", "exporter.blocks.FirstTokenAttention"
_PACKED_ATTENTION = "exporter.packed_text.PackedAttention"
_WHOLE, _SCALE = "exporter.units.Whole", "exporter.blocks.Scale"
_BOTTLENECK = "exporter.families.resnet.BottleneckUnit"
_CONVNEXT_BLOCK, _TIMM_MLP = "timm.models.convnext.ConvNeXtBlock", "timm.layers.mlp.Mlp"
# Known, and left as they are: no kernel of this package serves them.
_NATIVE_MLPS = ("timm.layers.mlp.SwiGLU", "timm.layers.mlp.GluMlp", "timm.layers.mlp.GlobalResponseNormMlp")
# Activations that are classes of their own, and the form of GELU that each computes.
_GELUS = {
    "torch.nn.modules.activation.GELU": None,  # the instance says
    "open_clip.transformer.QuickGELU": "quick",
    "timm.layers.activations.GELU": "none",
    "timm.layers.activations.GELUTanh": "tanh",
    "timm.layers.activations.QuickGELU": "quick",
}


def swap(tower: nn.Module, precision: str, kernels: Mode = "auto", arch: str | None = None) -> SwapReport:
    """Put fused modules into a tower, in place.

    Args:
        tower: of `exporter.towers` or `exporter.packed_text`, its precision already applied.
        precision: ``fp32``, ``fp16`` or ``bf16``, for the table.
        kernels: ``triton`` takes every kernel that there is, ``native`` none, ``auto`` those that won on `arch`
            (`kernels.choices`).
        arch: GPU architecture such as ``sm90``, or ``cpu``; None is this machine's.

    Returns:
        How many modules were swapped and how many were kept.

    Raises:
        ValueError: the mode does not exist.
        UnknownBlockError: the tower has a block that is not known here.
    """
    if kernels not in MODES:
        raise ValueError(f"kernels {kernels!r} is none of {', '.join(MODES)}")
    if kernels == "native":
        return SwapReport(kernels, {}, {})
    encoder: Any = getattr(tower, "encoder", None)
    if encoder is None:
        raise UnknownBlockError(
            f"{type(tower).__name__} is no tower: build one with exporter.towers.image_tower or text_tower"
        )
    target = arch or _arch_here()
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    plan = Plan(lambda op, shape: kernels == "triton" or choose(op, target, dtype, shape) == "triton")
    causal = bool(getattr(encoder.stem, "causal", False))
    for block in encoder.blocks:
        _plan_block(block, causal, plan)
    plan_ends(tower, plan)
    for parent, name, module in plan.places:
        setattr(parent, name, module)
    _stack(encoder, plan)
    return SwapReport(kernels, dict(plan.swapped), dict(plan.kept))


def _arch_here() -> str:
    if not torch.cuda.is_available():
        return "cpu"
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def _plan_block(block: Any, causal: bool, plan: Plan) -> None:
    what = kind(block)
    if what == _BLOCK:
        for unit in (block.attention, block.mlp):
            if kind(unit) not in (_RESIDUAL, _POST_NORM):
                raise unknown(unit)
            _plan_body(unit, causal, plan)
    elif what == _BOTTLENECK:
        plan.kept["convolutions"] += 1
    elif what == _WHOLE:
        _plan_whole(block.module, plan)
    else:
        raise unknown(block)


def _plan_body(unit: Any, causal: bool, plan: Plan) -> None:
    body = unit.body
    what = kind(body)
    if what == _SELF_ATTENTION:
        width = body.heads * body.head_dim
        if plan.wins("attention", (body.heads, body.head_dim)):
            cos, sin = (None, None) if body.rotary is None else (body.rotary.cos, body.rotary.sin)
            # A tower that masks padding passes its causality in the mask: the stem knows it.
            fused = FusedSelfAttention(
                body.qkv, body.out, body.heads, body.dot_product.causal or causal, cos, sin, body.inner_norm
            )
            plan.places.append((unit, "body", fused))
            plan.swapped["attention"] += 1
        else:
            plan.kept[f"attention of width {width}"] += 1
    elif what == _PACKED_ATTENTION:
        if plan.wins("packed_attention", (body.heads, body.head_dim)):
            packed = FusedPackedAttention(body.qkv, body.out, body.heads, body.longest, body.inner_norm)
            plan.places.append((unit, "body", packed))
            plan.swapped["packed_attention"] += 1
        else:
            plan.kept["packed attention"] += 1
    elif what == _FIRST_TOKEN:
        plan.kept["attention of the first token"] += 1
    elif what in _NATIVE_MLPS:
        plan.kept["gated MLP"] += 1
    else:
        _plan_mlp(unit, "body", body, plan)


def _plan_whole(module: Any, plan: Plan) -> None:
    """A convolutional block: ConvNeXt's has an MLP over the channels, and between the stages stands a norm with a convolution."""
    if kind(module) == _CONVNEXT_BLOCK:
        plan.kept["layer norm after a convolution"] += 1  # kernels/NOTES.md says why
        if kind(module.mlp) in _NATIVE_MLPS:
            plan.kept["gated MLP"] += 1
        else:
            _plan_mlp(module, "mlp", module.mlp, plan)
    elif isinstance(module, nn.Sequential) and any(isinstance(child, nn.Conv2d) for child in module):
        plan.kept["convolutions"] += 1
    else:
        raise unknown(module)


def _plan_mlp(parent: nn.Module, name: str, mlp: Any, plan: Plan) -> None:
    """Two linear layers (or convolutions of one place) and a GELU between them."""
    first, activation, second = _mlp_parts(mlp)
    approximate = _approximation(activation)
    linear = isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
    width = int(first.weight.shape[0])
    if linear and plan.wins("linear_gelu", (int(first.weight.shape[1]), width)):
        plan.places.append((parent, name, FusedMlp(first, second, approximate, in_epilogue=True)))
        plan.swapped["linear_gelu"] += 1
    elif plan.wins("bias_gelu", (width,)):
        if linear:
            plan.places.append((parent, name, FusedMlp(first, second, approximate, in_epilogue=False)))
        else:
            plan.places.append((mlp, _name_of(mlp, activation), FusedGelu(approximate)))
        plan.swapped["bias_gelu"] += 1
    else:
        plan.kept["MLP"] += 1


def _mlp_parts(mlp: Any) -> tuple[Any, Any, Any]:
    """First layer, activation and second layer of an MLP that does nothing else at inference."""
    if kind(mlp) == _TIMM_MLP:
        if not isinstance(mlp.norm, nn.Identity):
            raise unknown(mlp)
        return mlp.fc1, mlp.act, mlp.fc2
    children = [child for child in mlp.children() if not isinstance(child, (nn.Identity, nn.Dropout))]
    if isinstance(mlp, nn.Sequential) and len(children) == 3 and isinstance(children[0], nn.Linear):
        return children[0], children[1], children[2]
    raise unknown(mlp)


def _approximation(activation: Any) -> str:
    what = kind(activation)
    if what not in _GELUS:
        raise unknown(activation)
    return _GELUS[what] or str(activation.approximate)


def _name_of(parent: nn.Module, child: nn.Module) -> str:
    return next(name for name, module in parent.named_children() if module is child)


def _stack(encoder: Any, plan: Plan) -> None:
    """Residual adds fused with the norms that follow, where the whole stack allows it: one dtype, pre-norms that are LayerNorms."""
    blocks = list(encoder.blocks)
    if not blocks or any(kind(block) != _BLOCK for block in blocks):
        return
    units = [unit for block in blocks for unit in (block.attention, block.mlp)]
    dtypes = {dtype for unit in units for dtype in (unit.compute_dtype, unit.stream_dtype)}
    width = next((int(u.norm.weight.shape[0]) for u in units if isinstance(u.norm, nn.LayerNorm)), 0)
    if len(dtypes) != 1 or not all(_has_affine_norm(unit.norm) for unit in units):
        plan.kept["residual adds"] += len(units)
        return
    if not plan.wins("add_layer_norm", (width,)):
        plan.kept["residual adds"] += len(units)
        return
    if all(kind(unit) == _POST_NORM for unit in units):
        for block in blocks:
            block.attention = FusedPostNorm(block.attention.body, block.attention.norm, takes_mask=True)
            block.mlp = FusedPostNorm(block.mlp.body, block.mlp.norm, takes_mask=False)
        plan.swapped["add_layer_norm"] += len(units)
    elif all(kind(unit) == _RESIDUAL and (unit.after is None or kind(unit.after) == _SCALE) for unit in units):
        branches = [
            FusedBranch(
                unit.norm,
                unit.body,
                None if unit.after is None else unit.after.gamma.detach(),
                takes_mask=unit is block.attention and kind(unit.body) != _FIRST_TOKEN,
            )
            for block in blocks
            for unit in (block.attention, block.mlp)
        ]
        encoder.blocks = nn.ModuleList([FusedStack(branches)])
        plan.swapped["add_layer_norm"] += len(units) - 1
    else:
        plan.kept["residual adds"] += len(units)


def _has_affine_norm(norm: Any) -> bool:
    return isinstance(norm, nn.LayerNorm) and norm.weight is not None and norm.bias is not None
