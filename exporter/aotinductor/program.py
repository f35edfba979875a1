"""A tower as an exported program on disk: what AOTInductor compiles, as the ONNX graph is what TensorRT builds from.

The file holds the tower's weights once more. It lies in the unfinished bundle's folder while engines are built, and never in a
bundle.
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

_USUAL_TOKENS = 16  # of a caption, with start and end: what kernels are chosen for on a GPU


@dataclass(frozen=True)
class ProgramPlan:
    """Where programs go, and which batches they take.

    Attributes:
        folder: for the files; it is there.
        rows: the usual batch. Loops are split and, on a GPU, kernels chosen for it.
        most: the largest batch; None is any. With a bound the compiler knows where 32-bit indices reach.
        kernels: which fused modules take the place of native ones first; see `kernels.swap.swap`.
        arch: that they are chosen for: ``sm90``, ``cpu``.
        padded_for_cpu: the CPU is one of several targets, and takes padded captions where the others take packed ones.
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
        tower: in evaluation mode, its precision already applied.
        example: an input; its first row is repeated.
        length: of a text tower; ``fixed`` makes the length static.
        plan: where to and for which batches.

    Returns:
        The file.
    """
    dynamic: dict[int, Any] = {}
    if plan.most != 1:
        dynamic[0] = torch.export.Dim("N", min=1, max=plan.most)
    if length is not None and length.keep != "fixed":
        dynamic[1] = torch.export.Dim("L", min=length.min, max=length.max)
    # A batch of one would be taken for a constant.
    rows = 1 if plan.most == 1 else max(2, plan.rows)
    inputs = example[:1].expand(rows, *example.shape[1:]).contiguous()
    path = plan.folder / f"{tower.output_name}.pt2"
    _save(tower, (inputs,), (dynamic,), path)
    return path


def save_packed_program(tower: PackedTextTower, plan: ProgramPlan) -> Path:
    """As `save_program`, for 1 to `plan.most` captions laid end to end, each of 1 to the tower's longest.

    Its inputs are ids int32 (T,) and starts int32 (N + 1,).
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
    # Oblivious of the example's size: else dynamic batches begin at two, whatever `Dim` says, and one would run by luck.
    oblivious = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with torch.no_grad(), warnings.catch_warnings(), oblivious:
        warnings.simplefilter("ignore")  # about its own storage groups, where a weight lies transposed
        program = torch.export.export(tower, inputs, dynamic_shapes=dynamic, strict=False)
        _own_storage(program.state_dict)
        _own_storage(program.constants)
        torch.export.save(program, path)


def _own_storage(weights: dict[str, Any]) -> None:
    """Give every weight that is a part of a larger one memory of its own: else files hold the larger one each time."""
    for name, value in weights.items():
        if isinstance(value, torch.Tensor) and value.untyped_storage().nbytes() > value.nbytes:
            own = value.detach().clone(memory_format=torch.contiguous_format)
            weights[name] = (
                torch.nn.Parameter(own, requires_grad=False) if isinstance(value, torch.nn.Parameter) else own
            )
