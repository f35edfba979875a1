"""The precisions of `engines.precisions` for torch, and how one is written into a tower.

A precision is applied to the torch module, unit by unit (`exporter.towers.units`), before it is traced: the graph that comes out is
strongly typed, every engine reads the same one, and weights that stay in float32 are never rounded on the way. A quantized
precision rounds the linear layers first (`exporter.quantization.recipe`); the rest is in `dtype` in graphs for GPUs and in float32
in graphs for CPUs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from engines.manifest import Limits
from engines.precisions import PRECISIONS as _ENTRIES
from engines.precisions import PrecisionEntry, PrecisionName
from exporter.towers.modules import TowerModule


@dataclass(frozen=True)
class Precision:
    """An entry of `engines.precisions`, with torch's dtypes and the limits as the manifest has them.

    Attributes:
        name: the precision's name in manifests.
        dtype: dtype of what is not quantized.
        limits: the parity gate's limits.
        quantized: dtype of the linear layers' operands; None: they are in `dtype`, as everything.
        capability: compute capability of the first GPUs that have its arithmetic, 89 for sm89; 0: any.
        accuracy_loss: most that a task's accuracy may fall below eager float32's, as a share: 0.001 is 0.1 percentage points.
    """

    name: PrecisionName
    dtype: torch.dtype
    limits: Limits
    quantized: torch.dtype | None = None
    capability: int = 0
    accuracy_loss: float = 0.001

    @property
    def largest(self) -> float:
        """The largest finite value of the dtype."""
        return torch.finfo(self.dtype).max


def _precision(entry: PrecisionEntry) -> Precision:
    limits = Limits(
        min_cosine=entry.min_cosine,
        mean_cosine=entry.mean_cosine,
        top1_agreement=entry.top1_agreement,
        tie_margin=entry.tie_margin,
    )
    quantized = None if entry.quantized is None else torch_dtype(entry.quantized)
    return Precision(entry.name, torch_dtype(entry.dtype), limits, quantized, entry.capability, entry.accuracy_loss)


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a name such as ``float16``."""
    dtype: torch.dtype = getattr(torch, name)
    return dtype


PRECISIONS: dict[str, Precision] = {name: _precision(entry) for name, entry in _ENTRIES.items()}


@dataclass(frozen=True)
class PrecisionPlan:
    """Which dtype every unit computes in, and which one flows between them.

    Attributes:
        dtype: of all units that `fp32_units` does not name.
        stream: of what flows between the units.
        fp32_units: unit name to the reason why it stays in float32; ``stream`` stands for the stream itself.
    """

    dtype: torch.dtype
    stream: torch.dtype
    fp32_units: Mapping[str, str] = field(default_factory=dict)

    def compute_dtype(self, unit: str) -> torch.dtype:
        """The dtype that the named unit computes in."""
        return torch.float32 if unit in self.fp32_units else self.dtype


def apply_plan(tower: TowerModule, plan: PrecisionPlan) -> None:
    """Write the plan into the tower: convert its units' weights in place, one after the other."""
    for name, unit in tower.encoder.units():
        unit.set_dtypes(plan.compute_dtype(name), plan.stream)
