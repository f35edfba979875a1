"""The swap of native modules for fused ones in a whole tower: either all supported modules are swapped, or none.

A tower is `exporter.towers.modules`' ImageTower or TextTower, or `exporter.towers.packed_text`'s: every family of the model list,
rebuilt from the same few blocks. The blocks are recognized by their classes' names, because this package imports no other package
of the project. First all blocks are inspected and the new modules are made, over the same parameters; the new modules take their
places only when no block is unknown, so that no tower is ever half swapped.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kernels.attention_variants import DEFAULT, candidates, packed_candidates
from kernels.blocks import (
    FusedBranch,
    FusedGelu,
    FusedMlp,
    FusedPackedAttention,
    FusedPostNorm,
    FusedSelfAttention,
    FusedStack,
)
from kernels.choices import NATIVE, choose
from kernels.descriptors import packages_hold_descriptors
from kernels.plan import Mode, Plan, SwapReport, UnknownBlockError, capability_of, class_path, unknown
from kernels.swap_ends import plan_ends

__all__ = ["MODES", "Mode", "SwapReport", "UnknownBlockError", "swap"]

MODES: tuple[Mode, ...] = ("auto", "triton", "native")

_BLOCK, _RESIDUAL, _POST_NORM = (
    "exporter.towers.units.Block",
    "exporter.towers.units.Residual",
    "exporter.towers.units.PostNormResidual",
)
_SELF_ATTENTION, _FIRST_TOKEN = "exporter.towers.blocks.SelfAttention", "exporter.towers.blocks.FirstTokenAttention"
_PACKED_ATTENTION = "exporter.towers.packed_text.PackedAttention"
_WHOLE, _SCALE = "exporter.towers.units.Whole", "exporter.towers.blocks.Scale"
_CONVOLUTIONS = ("exporter.towers.resnet.BottleneckUnit", "exporter.towers.fastvit.FastVitUnit")
_CONVNEXT_BLOCK, _TIMM_MLP = "timm.models.convnext.ConvNeXtBlock", "timm.layers.mlp.Mlp"
# MLPs that stay native, because no kernel of this package computes them.
_NATIVE_MLPS = (
    "timm.layers.mlp.SwiGLU",
    "timm.layers.mlp.GluMlp",
    "timm.layers.mlp.GlobalResponseNormMlp",
    "timm.models.vitamin.GeGluMlp",
)
# Classes of activations, and the form of GELU that each computes.
_GELUS = {
    "torch.nn.modules.activation.GELU": None,  # the form is an attribute of the instance
    "open_clip.transformer.QuickGELU": "quick",
    "timm.layers.activations.GELU": "none",
    "timm.layers.activations.GELUTanh": "tanh",
    "timm.layers.activations.QuickGELU": "quick",
}


def swap(
    tower: nn.Module, precision: str, kernels: Mode = "auto", arch: str | None = None, rows: int | None = None
) -> SwapReport:
    """Put fused modules into a tower, in place.

    Args:
        tower: a tower of `exporter.towers.modules` or `exporter.towers.packed_text`, with its precision already applied.
        precision: ``fp32``, ``fp16`` or ``bf16``, for the table.
        kernels: ``triton`` takes every existing Triton kernel, ``native`` none, ``auto`` takes for each op the implementation that
            was the fastest on `arch` (`kernels.choices`): one of this project's kernels, a vendor's, or the native one.
        arch: GPU architecture such as ``sm90``, or ``cpu``; None is this machine's.
        rows: the usual batch, for the table; None where it is not known.

    Returns:
        The numbers of modules that were swapped and that stay native.

    Raises:
        ValueError: the mode does not exist.
        UnknownBlockError: the tower has an unknown block.
    """
    if kernels not in MODES:
        raise ValueError(f"kernels {kernels!r} is none of {', '.join(MODES)}")
    if kernels == "native":
        return SwapReport(kernels, {}, {})
    encoder: Any = getattr(tower, "encoder", None)
    if encoder is None:
        raise UnknownBlockError(
            f"{type(tower).__name__} is no tower: build one with exporter.towers.modules.image_tower or text_tower"
        )
    target = arch or _arch_here()
    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]

    def chosen(op: str, shape: Sequence[int | None], allowed: Sequence[str]) -> str:
        return allowed[0] if kernels == "triton" else choose(op, target, dtype, shape, allowed)

    tokens = getattr(encoder.stem, "length", None)
    plan = Plan(chosen, capability_of(target), dtype != torch.float32, rows, tokens, kernels == "auto")
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
    class_name = class_path(block)
    if class_name == _BLOCK:
        for unit in (block.attention, block.mlp):
            if class_path(unit) not in (_RESIDUAL, _POST_NORM):
                raise unknown(unit)
            _plan_body(unit, causal, plan)
    elif class_name in _CONVOLUTIONS:
        plan.kept["convolutions"] += 1
    elif class_name == _WHOLE:
        _plan_whole(block.module, plan)
    else:
        raise unknown(block)


def _plan_body(unit: Any, causal: bool, plan: Plan) -> None:
    body = unit.body
    class_name = class_path(body)
    if class_name == _SELF_ATTENTION:
        _plan_attention(unit, causal, plan)
    elif class_name == _PACKED_ATTENTION:
        allowed = packed_candidates(body.longest, body.head_dim, plan.capability)
        shape = (None, body.longest, body.heads, body.head_dim)
        variant = plan.choose("packed_attention", shape, allowed if plan.half else allowed[:1])
        if variant == NATIVE:
            plan.kept["packed attention"] += 1
        else:
            packed = FusedPackedAttention(body.qkv, body.out, body.heads, body.longest, body.inner_norm, variant)
            plan.places.append((unit, "body", packed))
            plan.swapped[_label("packed_attention", variant)] += 1
    elif class_name == _FIRST_TOKEN:
        plan.kept["attention of the first token"] += 1
    elif class_name in _NATIVE_MLPS:
        plan.kept["gated MLP"] += 1
    elif isinstance(body, nn.Sequential) and any(isinstance(child, nn.ReLU) for child in body):
        plan.kept["MLP with ReLU"] += 1
    else:
        _plan_mlp(unit, "body", body, plan)


def _plan_attention(unit: Any, causal: bool, plan: Plan) -> None:
    body = unit.body
    # A tower that masks padding passes its causality in the mask, so it is read from the stem. Among stems before attention, only
    # those of texts have no `length`.
    masked = not body.dot_product.causal and plan.tokens is None
    causal, rotated = body.dot_product.causal or causal, body.rotary is not None
    op = "masked_" if masked else "rotary_" if rotated else "causal_" if causal else ""
    allowed = candidates(plan.tokens, body.head_dim, plan.capability, masked, rotated)
    if plan.measured and plan.tokens is None and len(allowed) > 1:
        # The default is left out, because its tiles depend on the length: a package does not have it, while the table's rows were
        # measured with tiles for a known length.
        allowed = tuple(name for name in allowed if name != DEFAULT)
    shape = (plan.rows, plan.tokens, body.heads, body.head_dim)
    variant = plan.choose(f"{op}attention", shape, allowed if plan.half else allowed[:1])
    if variant == NATIVE:
        plan.kept[f"attention of width {body.heads * body.head_dim}"] += 1
        return
    cos, sin = (None, None) if body.rotary is None else (body.rotary.cos, body.rotary.sin)
    fused = FusedSelfAttention(body.qkv, body.out, body.heads, causal, cos, sin, body.inner_norm, variant)
    plan.places.append((unit, "body", fused))
    plan.swapped[_label("attention", variant)] += 1


def _label(kernel: str, variant: str) -> str:
    return kernel if variant == DEFAULT else f"{kernel} {variant}"


def _plan_whole(module: Any, plan: Plan) -> None:
    """Plan a convolutional block: ConvNeXt's block with an MLP over the channels, or a norm with a convolution between stages."""
    if class_path(module) == _CONVNEXT_BLOCK:
        plan.kept["layer norm after a convolution"] += 1  # for the reason see kernels/NOTES.md
        if class_path(module.mlp) in _NATIVE_MLPS:
            plan.kept["gated MLP"] += 1
        else:
            _plan_mlp(module, "mlp", module.mlp, plan)
    elif isinstance(module, nn.Sequential) and any(isinstance(child, nn.Conv2d) for child in module):
        plan.kept["convolutions"] += 1
    else:
        raise unknown(module)


def _plan_mlp(parent: nn.Module, name: str, mlp: Any, plan: Plan) -> None:
    """Plan an MLP: two linear layers (or convolutions with windows of one pixel) and a GELU between them."""
    first, activation, second = _mlp_parts(mlp)
    approximate = _approximation(activation)
    width, inner = (int(size) for size in first.weight.shape[:2])
    if isinstance(first, nn.Linear) and isinstance(second, nn.Linear):
        op, shape = "quick_mlp" if approximate == "quick" else "mlp", (plan.stream_rows, inner, width)
        implementation = plan.choose(op, shape, _mlps(first, approximate, plan))
        if implementation != NATIVE:
            plan.places.append((parent, name, FusedMlp(first, second, approximate, implementation)))
            plan.swapped[implementation] += 1
            return
    elif plan.choose("bias_gelu", (None, width), ("triton",)) != NATIVE:
        plan.places.append((mlp, _name_of(mlp, activation), FusedGelu(approximate)))
        plan.swapped["bias_gelu"] += 1
        return
    plan.kept["MLP"] += 1


def _mlps(first: nn.Linear, approximate: str, plan: Plan) -> list[str]:
    """The implementations that can replace a linear layer and its GELU."""
    allowed = ["linear_gelu", "bias_gelu"]
    aligned = first.in_features % 8 == 0 and first.out_features % 8 == 0
    # Consumer Blackwell (12) has tensor descriptors, too, but less shared memory than these tiles need.
    if plan.capability // 10 in (9, 10) and plan.half and aligned and packages_hold_descriptors():
        allowed.append("linear_gelu tma")
    if approximate != "quick" and first.bias is not None and plan.half:
        allowed.append("linear_gelu cublaslt")
    return allowed


def _mlp_parts(mlp: Any) -> tuple[Any, Any, Any]:
    """First layer, activation and second layer of an MLP that has no other operations at inference."""
    if class_path(mlp) == _TIMM_MLP:
        if not isinstance(mlp.norm, nn.Identity):
            raise unknown(mlp)
        return mlp.fc1, mlp.act, mlp.fc2
    children = [child for child in mlp.children() if not isinstance(child, (nn.Identity, nn.Dropout))]
    if isinstance(mlp, nn.Sequential) and len(children) == 3 and isinstance(children[0], nn.Linear):
        return children[0], children[1], children[2]
    raise unknown(mlp)


def _approximation(activation: Any) -> str:
    class_name = class_path(activation)
    if class_name not in _GELUS:
        raise unknown(activation)
    return _GELUS[class_name] or str(activation.approximate)


def _name_of(parent: nn.Module, child: nn.Module) -> str:
    return next(name for name, module in parent.named_children() if module is child)


def _stack(encoder: Any, plan: Plan) -> None:
    """Fuse residual adds with the next norms, if a whole stack allows it: one dtype, LayerNorms, all pre-norm or all post-norm."""
    blocks = list(encoder.blocks)
    if not blocks or any(class_path(block) != _BLOCK for block in blocks):
        return
    units = [unit for block in blocks for unit in (block.attention, block.mlp)]
    dtypes = {dtype for unit in units for dtype in (unit.compute_dtype, unit.stream_dtype)}
    width = next((int(u.norm.weight.shape[0]) for u in units if isinstance(u.norm, nn.LayerNorm)), 0)
    if len(dtypes) != 1 or not all(_has_affine_norm(unit.norm) for unit in units):
        plan.kept["residual adds"] += len(units)
        return
    if plan.choose("add_layer_norm", (plan.stream_rows, width), ("triton",)) == NATIVE:
        plan.kept["residual adds"] += len(units)
        return
    if all(class_path(unit) == _POST_NORM for unit in units):
        for block in blocks:
            block.attention = FusedPostNorm(block.attention.body, block.attention.norm, takes_mask=True)
            block.mlp = FusedPostNorm(block.mlp.body, block.mlp.norm, takes_mask=False)
        plan.swapped["add_layer_norm"] += len(units)
    elif all(
        class_path(unit) == _RESIDUAL and (unit.after is None or class_path(unit.after) == _SCALE) for unit in units
    ):
        branches = [
            FusedBranch(
                unit.norm,
                unit.body,
                None if unit.after is None else unit.after.gamma.detach(),
                takes_mask=unit is block.attention and class_path(unit.body) != _FIRST_TOKEN,
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
