"""The towers with this project's Triton kernels swapped in, run by PyTorch without a compiler."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Call, Contender, missing_library
from benchmarks.contenders.eager import load_clip
from benchmarks.contenders.eager import why_not as eager_why_not
from benchmarks.records.machine import versions
from benchmarks.records.precisions import torch_dtype
from benchmarks.workloads.inputs import SETS, Case

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """Triton or a GPU is missing."""
    if device != "cuda":
        return "Triton kernels run on GPUs"
    return missing_library("msgspec", "triton") or eager_why_not(subject, contender, device)


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> SwappedTower:
    """Load the model, rebuild the tower from its blocks, swap, and move it to the GPU."""
    from engines.manifest import Preprocess
    from exporter.precision.precisions import PrecisionPlan, apply_plan
    from exporter.towers.modules import TowerModule, image_tower, text_tower
    from kernels.swap import swap

    model, weights, note = load_clip(subject, device)
    module: TowerModule
    if tower == "image":
        config = Preprocess(
            size=subject.size, mean=subject.mean, std=subject.std, interpolation="bicubic", resize_mode="shortest"
        )
        module = image_tower(model, config)
    else:
        module = text_tower(model)
    dtype = torch_dtype(contender.precision)
    apply_plan(module, PrecisionPlan(dtype, dtype))
    report = swap(module, contender.precision, "triton")
    swapped = ", ".join(f"{count} {name}" for name, count in report.swapped.items())
    return SwappedTower(module.eval().to(device), weights, "; ".join(filter(None, (note, swapped))))


class SwappedTower:
    """A tower on the GPU; pixels are normalized in it, and of captions only the ids that count are sent."""

    on_stream, threads = True, 0

    def __init__(self, module: Any, weights: str, note: str) -> None:
        self._module, self.weights, self.note = module, weights, note
        self.versions = versions(("torch", "triton"))

    def prepare(self, case: Case) -> Call:
        """Pixels uint8 (N, H, W, 3) or ids int32 (N, L) on the GPU."""
        import torch

        inputs = case.load()
        if case.kind == "ids" and self._stops_at_the_end_token():
            inputs = inputs[:, :, : int(inputs.argmax(axis=-1).max()) + 1]
        sets = [torch.from_numpy(inputs[i]).contiguous().cuda() for i in range(SETS)]

        def call(i: int) -> object:
            with torch.inference_mode():
                return self._module(sets[i % SETS])

        return call

    def figures(self) -> dict[str, float]:
        """No figures."""
        return {}

    def _stops_at_the_end_token(self) -> bool:
        """Whether what follows the highest id cannot matter: the tower is causal, without a class token at its end."""
        stem = self._module.encoder.stem
        return bool(getattr(stem, "causal", False)) and not getattr(stem, "has_class_token", False)
