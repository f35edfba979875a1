"""Precisions: what each one computes in, what the parity gate demands of it, and how it is written into a tower.

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
from exporter.towers.modules import TowerModule


@dataclass(frozen=True)
class Precision:
    """One precision: its command line flag is ``--<name>``.

    Attributes:
        name: as the manifest has it.
        dtype: of what is not quantized.
        limits: of the parity gate.
        summary: for readers.
        quantized: dtype of the linear layers' operands; None: they are in `dtype`, as everything.
        capability: of the first GPUs that compute in it, 89 for sm89; 0: any.
        accuracy_loss: most that a task's accuracy may fall below eager float32's, as a share: 0.001 is 0.1 percentage points.
    """

    name: str
    dtype: torch.dtype
    limits: Limits
    summary: str
    quantized: torch.dtype | None = None
    capability: int = 0
    accuracy_loss: float = 0.001

    @property
    def largest(self) -> float:
        """The largest finite value of the dtype."""
        return torch.finfo(self.dtype).max


PRECISIONS: dict[str, Precision] = {
    precision.name: precision
    for precision in (
        Precision(
            "fp32",
            torch.float32,
            Limits(min_cosine=0.99999, mean_cosine=0.999995, top1_agreement=0.99, tie_margin=1e-5),
            "float32 weights and arithmetic",
        ),
        Precision(
            "fp16",
            torch.float16,
            Limits(min_cosine=0.999, mean_cosine=0.9995, top1_agreement=0.95, tie_margin=2e-3),
            "float16, but for the units that overflow or lose accuracy in it",
        ),
        Precision(
            "bf16",
            torch.bfloat16,
            Limits(min_cosine=0.995, mean_cosine=0.997, top1_agreement=0.9, tie_margin=1e-2),
            "bfloat16, but for the units that lose accuracy in it",
            accuracy_loss=0.005,
        ),
        Precision(
            "int8",
            torch.float16,
            Limits(min_cosine=0.97, mean_cosine=0.99, top1_agreement=0.9, tie_margin=1e-2),
            "int8 linear layers, the rest in float16 (CPU: float32); needs --calibration",
            quantized=torch.int8,
            accuracy_loss=0.005,
        ),
        Precision(
            "fp8",
            torch.float16,
            Limits(min_cosine=0.97, mean_cosine=0.99, top1_agreement=0.9, tie_margin=1e-2),
            "float8 (e4m3) linear layers, the rest in float16; needs --calibration and sm89 or newer",
            quantized=torch.float8_e4m3fn,
            capability=89,
            accuracy_loss=0.005,
        ),
    )
}


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
