"""One tower's programs for AOTInductor: fused kernels replace native ones, captions are packed where that is faster."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import torch

from engines.manifest import TextLength, TowerName
from engines.precisions import PRECISIONS, QUANTIZED
from exporter.aotinductor.program import ProgramPlan, save_packed_program, save_program
from exporter.errors import ExportError
from exporter.memory import release_memory
from exporter.stages import Stages
from exporter.towers.modules import TextTower, TowerModule
from exporter.towers.packed_text import PackedAttention, PackedTextTower, packed_text_tower
from kernels.attention_variants import packed_candidates
from kernels.choices import NATIVE, choose, unmeasured
from kernels.plan import capability_of
from kernels.swap import SwapReport, UnknownBlockError, swap

_MOST_TOKENS = 2**31 - 1  # tokens in all captions of a batch


# Precisions whose packages may hold fused kernels.
_DTYPES = {name: entry.dtype for name, entry in PRECISIONS.items() if entry.quantized is None}


@dataclass(frozen=True)
class TowerPrograms:
    """The programs that were written.

    Attributes:
        padded: the program that takes the tower's own input; None where every target takes `packed`.
        packed: the program that takes packed captions; None where no target takes them.
        swapped: the fused modules in the packed program, or in the padded one where there is no packed one.
    """

    padded: Path | None
    packed: Path | None
    swapped: SwapReport


def save_programs(
    name: TowerName,
    module: TowerModule,
    example: torch.Tensor,
    length: TextLength | None,
    precision: str,
    plan: ProgramPlan,
    stages: Stages,
) -> TowerPrograms:
    """Write a tower's programs, in which fused modules replace the tower's own.

    A tower that takes packed captions has a second, padded program for the CPU, unless the options require fused kernels there:
    packing saves little work in products where rows are sorted by length, and attention pads again without its kernel.

    Raises:
        ExportError: the options require fused kernels, and the tower has a block without one.
    """
    release_memory()
    if plan.kernels == "auto" and plan.arch != "cpu" and precision in _DTYPES:
        problem = unmeasured(plan.arch)
        if problem is not None and problem not in stages.notes:  # once for both towers
            stages.note(problem)
    packed = _packed(module, length, precision, plan)
    padded_path: Path | None = None
    packed_path: Path | None = None
    if packed is None or plan.padded_for_cpu:
        with stages.stage(f"program of the {name} tower", "program", name) as figures:
            report = _swap(name, module, precision, plan, stages)
            padded_path = save_program(module, example, length, plan)
            figures |= _figures(padded_path, report)
    if packed is not None:
        with stages.stage(f"packed program of the {name} tower", "program", name) as figures:
            report = _swap(name, packed, precision, plan, stages)
            # The bound is int32's, the dtype of the starts: without any bound PyTorch 2.11 cannot compile the slice of the starts
            # from the second on.
            bounded = dataclasses.replace(plan, most=plan.most or _MOST_TOKENS // packed.longest)
            packed_path = save_packed_program(packed, bounded)
            figures |= _figures(packed_path, report)
    return TowerPrograms(padded_path, packed_path, report)


def _figures(program: Path, report: SwapReport) -> dict[str, object]:
    return {"bytes": program.stat().st_size, "swapped": dict(report.swapped), "kept": dict(report.kept)}


def _packed(
    module: TowerModule, length: TextLength | None, precision: str, plan: ProgramPlan
) -> PackedTextTower | None:
    """Make the tower over packed captions, if that is exact and the plan requires fused kernels or they are faster; else None."""
    if plan.kernels == "native" or length is None or not isinstance(module, TextTower):
        return None
    tower = packed_text_tower(module, length)
    if tower is None or plan.kernels == "triton":
        return tower
    dtype = _DTYPES.get(precision)
    if dtype is None or plan.arch == "cpu":
        return None
    blocks = [module for module in tower.modules() if isinstance(module, PackedAttention)]
    won = all(_packed_variant(block, plan.arch, dtype) != NATIVE for block in blocks)
    return tower if won else None


def _packed_variant(block: PackedAttention, arch: str, dtype: str) -> str:
    allowed = packed_candidates(block.longest, block.head_dim, capability_of(arch))
    return choose("packed_attention", arch, dtype, (None, block.longest, block.heads, block.head_dim), allowed)


def _swap(name: TowerName, module: torch.nn.Module, precision: str, plan: ProgramPlan, stages: Stages) -> SwapReport:
    """Put fused kernels into a tower; one without a matching fused module stays native unless the plan requires them."""
    if precision in QUANTIZED:
        return SwapReport("native", {}, {})
    try:
        return swap(module, precision, plan.kernels, plan.arch, plan.rows)
    except UnknownBlockError as error:
        if plan.kernels == "triton":
            raise ExportError(f"the {name} tower cannot take fused kernels ({error}): pass --kernels auto") from error
        stages.note(f"no fused kernels in the {name} tower: {error}")
        return SwapReport(plan.kernels, {}, {"blocks": 1})
