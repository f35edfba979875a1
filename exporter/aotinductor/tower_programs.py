"""One tower's programs for AOTInductor: fused kernels put in, captions packed where that pays, written to disk."""

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

_MOST_TOKENS = 2**31 - 1  # of all captions of a batch


# Precisions whose packages may hold fused kernels.
_DTYPES = {name: entry.dtype for name, entry in PRECISIONS.items() if entry.quantized is None}


@dataclass(frozen=True)
class TowerPrograms:
    """What was written.

    Attributes:
        padded: takes the tower's own input; None where every target takes `packed`.
        packed: takes packed captions; None where none does.
        swapped: fused modules in the packed program, or in the padded one where there is no other.
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
    """Write a tower's programs; fused modules take the places of its own.

    A tower that takes packed captions has a second program for the CPU, unless fused kernels were asked for there: what packing
    saves in products is small where rows are sorted by length, and attention pads again without its kernel.

    Raises:
        ExportError: fused kernels were asked for, and the tower has a block that none is known for.
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
            # int32, as the starts are, is a bound; without any, PyTorch 2.11 cannot compile the slice of all but the first start.
            bounded = dataclasses.replace(plan, most=plan.most or _MOST_TOKENS // packed.longest)
            packed_path = save_packed_program(packed, bounded)
            figures |= _figures(packed_path, report)
    return TowerPrograms(padded_path, packed_path, report)


def _figures(program: Path, report: SwapReport) -> dict[str, object]:
    return {"bytes": program.stat().st_size, "swapped": dict(report.swapped), "kept": dict(report.kept)}


def _packed(
    module: TowerModule, length: TextLength | None, precision: str, plan: ProgramPlan
) -> PackedTextTower | None:
    """The tower over packed captions, where that is exact and wanted."""
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
    """Fused kernels in a program; a tower that no fused module knows stays native unless they were asked for."""
    if precision in QUANTIZED:
        return SwapReport("native", {}, {})
    try:
        return swap(module, precision, plan.kernels, plan.arch, plan.rows)
    except UnknownBlockError as error:
        if plan.kernels == "triton":
            raise ExportError(f"the {name} tower cannot take fused kernels ({error}): pass --kernels auto") from error
        stages.note(f"no fused kernels in the {name} tower: {error}")
        return SwapReport(plan.kernels, {}, {"blocks": 1})
