"""A tower as an exported program on disk: the input of AOTInductor, as the ONNX graph is the input of TensorRT.

The file holds a second copy of the tower's weights. It lies in the unfinished bundle's folder while engines are built, and is
not part of a bundle.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.fx.experimental import _config

from engines.manifest import KernelMode, TextLength
from exporter.towers.modules import TowerModule
from exporter.towers.packed_text import PackedTextTower

_USUAL_TOKENS = 16  # tokens of a usual caption, with start and end; kernels for a GPU are chosen for this length


@dataclass(frozen=True)
class ProgramPlan:
    """The folder of the programs, and the batches that they take.

    Attributes:
        folder: an existing folder for the files.
        rows: the usual batch size, for which loops are split and, on a GPU, kernels are chosen.
        most: the largest batch; None: any size. With a bound the compiler can decide where 32-bit indices are enough.
        kernels: the fused modules that replace native ones before tracing; see `kernels.swap.swap`.
        arch: the architecture for which the fused modules are chosen, such as ``sm90`` or ``cpu``.
        padded_for_cpu: whether the CPU is one of several targets and takes padded captions where the others take packed ones.
    """

    folder: Path
    rows: int
    most: int | None
    kernels: KernelMode = "auto"
    arch: str = "cpu"
    padded_for_cpu: bool = False


def save_program(tower: TowerModule, example: torch.Tensor, length: TextLength | None, plan: ProgramPlan) -> Path:
    """Trace `tower` with a batch of 1 to `plan.most` and, for texts, the length's range, and write the program.

    Args:
        tower: the tower, in evaluation mode, its precision already applied.
        example: an input of the tower; its first row is repeated.
        length: the length rule of a text tower; ``fixed`` makes the length static.
        plan: the folder and the batches.

    Returns:
        The program's file.
    """
    dynamic: dict[int, Any] = {}
    if plan.most != 1:
        dynamic[0] = torch.export.Dim("N", min=1, max=plan.most)
    if length is not None and length.keep != "fixed":
        dynamic[1] = torch.export.Dim("L", min=length.min, max=length.max)
    # A batch of one would be traced as a constant.
    rows = 1 if plan.most == 1 else max(2, plan.rows)
    inputs = example[:1].expand(rows, *example.shape[1:]).contiguous()
    path = plan.folder / f"{tower.output_name}.pt2"
    _save(tower, (inputs,), (dynamic,), path)
    return path


def save_packed_program(tower: PackedTextTower, plan: ProgramPlan) -> Path:
    """Write a tower's program, as `save_program`, for 1 to `plan.most` captions laid end to end, each of 1 to `tower.longest` ids.

    The program's inputs are ids int32 (T,) and starts int32 (N + 1,).
    """
    captions = 1 if plan.most == 1 else max(2, plan.rows)
    tokens = min(_USUAL_TOKENS, tower.longest)
    starts = torch.arange(0, (captions + 1) * tokens, tokens, dtype=torch.int32)
    most = None if plan.most is None else plan.most * tower.longest
    bounds = (
        {} if plan.most == 1 else {0: torch.export.Dim("S", min=2, max=None if plan.most is None else plan.most + 1)}
    )
    path = plan.folder / f"{tower.output_name}-packed.pt2"
    inputs = (torch.ones(captions * tokens, dtype=torch.int32), starts)
    _save(tower, inputs, ({0: torch.export.Dim("T", min=1, max=most)}, bounds), path)
    return path


def _save(
    tower: torch.nn.Module, inputs: tuple[torch.Tensor, ...], dynamic: tuple[dict[int, Any], ...], path: Path
) -> None:
    # Without `backed_size_oblivious` dynamic batches begin at two, whatever `Dim` declares, and a batch of one may fail.
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), warnings.catch_warnings(), oblivious:
        warnings.simplefilter("ignore")  # torch warns about its own storage groups where a weight lies transposed
        program = torch.export.export(tower, inputs, dynamic_shapes=dynamic, strict=False)
        _own_storage(program.state_dict)
        _own_storage(program.constants)
        torch.export.save(program, path)


def _own_storage(weights: dict[str, Any]) -> None:
    """Copy every weight that is a part of a larger one, because files would hold the larger one for each of its parts."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
            copy = value.detach().clone(memory_format=torch.contiguous_format)
            weights[name] = (
                torch.nn.Parameter(copy, requires_grad=False) if isinstance(value, torch.nn.Parameter) else copy
            )
