"""The precisions of `engines.precisions` for torch, and the function that writes one into a tower.

A precision is applied to the torch module, unit by unit (`exporter.towers.units`), before it is traced: the resulting graph is
strongly typed, every engine reads the same graph, and weights that stay in float32 are never rounded in between. A quantized
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
    """An entry of `engines.precisions`, with torch's dtypes and the limits in the manifest's form.

    Attributes:
        name: the precision's name in manifests.
        dtype: the dtype of the parts that are not quantized.
        limits: the parity gate's limits.
        quantized: the dtype of the linear layers' operands; None: they are in `dtype`, as everything.
        capability: the compute capability of the first GPUs with this arithmetic, 89 for sm89; 0: any.
        accuracy_loss: the largest allowed loss of a task's accuracy against eager float32, as a share: 0.001 is 0.1 percentage
            points.
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
    """The dtypes in which units compute, and the dtype of the stream between them.

    Attributes:
        dtype: the dtype of all units that `fp32_units` does not name.
        stream: the dtype of the values that pass from unit to unit.
        fp32_units: the reasons why units stay in float32, by the unit's name; ``stream`` is the stream itself.
    """

    dtype: torch.dtype
    stream: torch.dtype
    fp32_units: Mapping[str, str] = field(default_factory=dict)

    def compute_dtype(self, unit: str) -> torch.dtype:
        """The dtype in which the named unit computes."""
        return torch.float32 if unit in self.fp32_units else self.dtype


def apply_plan(tower: TowerModule, plan: PrecisionPlan) -> None:
    """Apply the plan to the tower: convert its units' weights in place, one after the other."""
    for name, unit in tower.encoder.units():
        unit.set_dtypes(plan.compute_dtype(name), plan.stream)
