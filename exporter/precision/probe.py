"""The probe for units that must stay in float32, because they overflow on real data or their rounding costs too much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from engines.manifest import TowerParity
from engines.verification.embeddings import compare_embeddings
from exporter.precision.precisions import Precision, PrecisionPlan
from exporter.precision.rounding import rounded, rounded_unit, watched
from exporter.towers.modules import TowerModule
from exporter.towers.units import Unit

# A value within this factor of the dtype's limit counts as overflow, because later data may be larger than the probe's.
OVERFLOW_MARGIN = 4.0
# The share of the gate's allowed distance from eager that the plan may use, because the engines' own rounding is added to it.
GATE_SHARE = 0.5


@dataclass(frozen=True)
class Probe:
    """The decision of the probe, with its reasons.

    Attributes:
        plan: the dtypes of the units.
        simulated: the plan's parity with float32 in the rounding simulation.
        largest: the largest magnitude in each unit, by the unit's name.
        samples: the number of inputs.
    """

    plan: PrecisionPlan
    simulated: TowerParity
    largest: dict[str, float]
    samples: int


def probe(tower: TowerModule, batches: Sequence[torch.Tensor], reference: np.ndarray, precision: Precision) -> Probe:
    """Plan a precision for a float32 tower.

    Args:
        tower: the tower in float32; it is not changed.
        batches: inputs of the tower from real data.
        reference: eager embeddings of all batches in order, (N, D) float32.
        precision: the precision, with a dtype of float16 or bfloat16.

    Returns:
        The plan with the fewest units in float32 that meets the precision's limits with room to spare, or, if no plan does, the
        best one, which the gate then judges.
    """
    largest, stream = _observe(tower, batches)
    plan = _overflow_plan(precision, largest, stream)
    best: tuple[PrecisionPlan, TowerParity] | None = None
    for candidate in _escalate(tower, batches, plan):
        parity = compare_embeddings(reference, _simulate(tower, batches, candidate))
        if best is None or parity.min_cosine > best[1].min_cosine:
            best = (candidate, parity)
        if meets(parity, precision):
            break
    assert best is not None
    return Probe(plan=best[0], simulated=best[1], largest=largest, samples=len(reference))


def meets(parity: TowerParity, precision: Precision) -> bool:
    """Whether the gate passes with room to spare."""
    limits = precision.limits
    pairs = ((parity.min_cosine, limits.min_cosine), (parity.mean_cosine, limits.mean_cosine))
    return all(1.0 - value <= GATE_SHARE * (1.0 - limit) for value, limit in pairs)


def _observe(tower: TowerModule, batches: Sequence[torch.Tensor]) -> tuple[dict[str, float], float]:
    """Measure the largest magnitude inside every unit, and in the stream between units."""
    largest: dict[str, float] = {}
    stream = 0.0

    def record(unit: str, place: str, value: float) -> None:
        nonlocal stream
        if place == "stream":
            stream = max(stream, value)
        else:
            largest[unit] = max(largest.get(unit, 0.0), value)

    with torch.inference_mode(), watched(tower, record):
        for batch in batches:
            tower(batch)
    return largest, stream


def _overflow_plan(precision: Precision, largest: dict[str, float], stream: float) -> PrecisionPlan:
    limit = precision.largest / OVERFLOW_MARGIN
    reasons = {name: f"activations reach {value:.3g}" for name, value in largest.items() if not value <= limit}
    stream_dtype = precision.dtype
    if not stream <= limit:
        stream_dtype = torch.float32
        reasons["stream"] = f"the residual stream reaches {stream:.3g}"
    return PrecisionPlan(precision.dtype, stream_dtype, reasons)


def _escalate(tower: TowerModule, batches: Sequence[torch.Tensor], plan: PrecisionPlan) -> Iterator[PrecisionPlan]:
    """Yield plans from the cheapest to the safest: the given one, with the stream in float32, then with more of the worst units."""
    yield plan
    reasons = dict(plan.fp32_units)
    if plan.stream != torch.float32:
        reasons["stream"] = "rounding the residual stream costs too much accuracy"
        plan = PrecisionPlan(plan.dtype, torch.float32, dict(reasons))
        yield plan
    errors = _local_errors(tower, batches[0], plan)
    ranked = sorted((name for name in errors if name not in reasons), key=lambda name: -errors[name])
    count = 1
    while ranked:
        for name in ranked[:count]:
            reasons[name] = f"its rounding error is {errors[name]:.2g} of its output"
        ranked = ranked[count:]
        yield PrecisionPlan(plan.dtype, torch.float32, dict(reasons))
        count = min(2 * count, 8)


def _simulate(tower: TowerModule, batches: Sequence[torch.Tensor], plan: PrecisionPlan) -> np.ndarray:
    with torch.inference_mode(), rounded(tower, plan):
        return torch.cat([tower(batch) for batch in batches]).numpy()


def _local_errors(tower: TowerModule, batch: torch.Tensor, plan: PrecisionPlan) -> dict[str, float]:
    """Measure each unit's own rounding error, relative to its output, with exact inputs."""
    errors: dict[str, float] = {}
    hooks = []

    def measure(name: str, unit: Unit) -> None:
        inside = False

        def hook(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], output: object) -> None:
            nonlocal inside
            if inside:
                return
            inside = True
            with rounded_unit(unit, plan.dtype, plan.stream):
                again = module(*inputs)
            inside = False
            exact, other = (y[0] if isinstance(y, tuple) else y for y in (output, again))
            assert isinstance(exact, torch.Tensor)
            assert isinstance(other, torch.Tensor)
            error = float((exact - other).norm() / exact.norm().clamp_min(1e-30))
            errors[name] = error if error == error else float("inf")

        hooks.append(unit.register_forward_hook(hook))

    for name, unit in tower.encoder.units():
        measure(name, unit)
    try:
        with torch.inference_mode():
            tower(batch)
    finally:
        for registered in hooks:
            registered.remove()
    return errors
