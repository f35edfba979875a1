"""The costs of an export: file sizes, peak memory and time of each tower and engine, measured ones where there are rows.

Figures without a row are estimates from the numbers of parameters and operations; each figure says which of both it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from engines.engine_kinds import KINDS
from engines.precisions import PRECISIONS
from exporter.builders.aotinductor import compiler_memory
from exporter.planning import measured
from exporter.planning.model import PlannedModel, TowerSize
from exporter.reference.eager import FLOP_BUDGET, affordable

Basis = Literal["measured", "estimate"]
_FLOPS_PER_SECOND = FLOP_BUDGET / 60  # of eager on two cores: the budget is about a minute there
# Calibration and search on two cores, by float32 weights: `quantize_seconds` of ViT-L-14 in int8, in benchmarks/results/.
_QUANTIZE_SECONDS_PER_BYTE = 483.24 / 1.71e9


class TowerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A tower's graph.

    Attributes:
        name: ``image`` or ``text``.
        parameters: number of parameters; None: not known without a download.
        file_bytes: size of its graphs with their weights; None: not known.
        seconds: time of its export without the gate's pictures beyond the zoo's; None: not known.
        basis: whether size and time were measured.
    """

    name: str
    parameters: int | None
    file_bytes: float | None
    seconds: float | None
    basis: Basis


class EnginePlan(msgspec.Struct, frozen=True, kw_only=True):
    """An engine of one tower for one target.

    Attributes:
        kind: the kind.
        tower: ``image`` or ``text``.
        target: the target, such as ``sm80`` or ``cpu``.
        file_bytes: size of its file; None: not known.
        peak_bytes: peak memory of the process that builds it; None: not known.
        seconds: time of its build; None: not known.
        basis: whether these were measured.
    """

    kind: str
    tower: str
    target: str
    file_bytes: float | None
    peak_bytes: float | None
    seconds: float | None
    basis: Basis


def tower_plan(model: PlannedModel, name: str, precision: str, graphs: tuple[bool, bool]) -> TowerPlan:
    """Plan a tower's graph.

    Args:
        model: the model.
        name: ``image`` or ``text``.
        precision: the precision's name.
        graphs: for a quantized precision, whether the bundle has a graph for CPUs, and whether one for GPUs.
    """
    architecture, size = model.origin.architecture, model.towers.get(name)
    row = measured.graph(architecture, name, precision)
    if row is not None:
        parameters = round(row.file_bytes / PRECISIONS[precision].operand_bytes) if size is None else size.parameters
        return TowerPlan(
            name=name, parameters=parameters, file_bytes=row.file_bytes, seconds=row.seconds, basis="measured"
        )
    file_bytes = None if size is None else _graph_bytes(size, precision, graphs)
    other = _other_precision(architecture, name)
    if file_bytes is None and other is not None and PRECISIONS[precision].quantized is None:
        file_bytes = other[1].file_bytes / PRECISIONS[other[0]].operand_bytes * PRECISIONS[precision].operand_bytes
    seconds = other[1].seconds if other is not None else None
    if seconds is None and size is not None:
        seconds = measured.estimated_export_seconds(size.parameters, precision)
    parameters_known = size.parameters if size is not None else None
    if parameters_known is None and other is not None:
        parameters_known = round(other[1].file_bytes / PRECISIONS[other[0]].operand_bytes)
    return TowerPlan(name=name, parameters=parameters_known, file_bytes=file_bytes, seconds=seconds, basis="estimate")


def _other_precision(architecture: str, tower: str) -> tuple[str, Any] | None:
    """The name and the row of another precision in which the tower's graph was measured; None without one."""
    rows = ((name, measured.graph(architecture, tower, name)) for name, p in PRECISIONS.items() if p.quantized is None)
    return next(((name, row) for name, row in rows if row is not None), None)


def _graph_bytes(size: TowerSize, precision: str, graphs: tuple[bool, bool]) -> float:
    entry = PRECISIONS[precision]
    if entry.quantized is None:
        return float(size.parameters * entry.operand_bytes)
    # Layers that are not quantized are in float32 in the graph for CPUs, and in half precision in the one for GPUs.
    other_bytes = [width for width, has in zip((4, 2), graphs, strict=True) if has]
    rest = size.parameters - size.matrices
    return float(sum(size.matrices * entry.operand_bytes + rest * width for width in other_bytes))


def engine_plan(model: PlannedModel, tower: TowerPlan, precision: str, kind: str, target: str) -> EnginePlan:
    """Plan an engine of a tower that is built ahead of time: its file holds the weights of the tower's graph for its device."""
    row = measured.engine(model.origin.architecture, tower.name, precision, kind)
    weights, size = tower.file_bytes, model.towers.get(tower.name)
    if PRECISIONS[precision].quantized is not None and size is not None:
        weights = _graph_bytes(size, precision, (target == "cpu", target != "cpu"))
    file_bytes, peak, seconds = weights, None, None
    if row is not None:
        file_bytes, peak, seconds = row.file_bytes, row.peak_bytes, row.seconds
    elif weights is not None and not KINDS[kind].gpu_targets:
        peak = compiler_memory(weights)
    elif weights is not None:
        peak = measured.estimated_peak(weights, built=True)
        seconds = measured.estimated_build_seconds(weights)
    return EnginePlan(
        kind=kind,
        tower=tower.name,
        target=target,
        file_bytes=file_bytes,
        peak_bytes=peak,
        seconds=seconds,
        basis="estimate" if row is None else "measured",
    )


def peak_memory(
    model: PlannedModel, towers: Sequence[TowerPlan], engines: Sequence[EnginePlan], precision: str
) -> tuple[float, Basis] | None:
    """The peak memory of the export in bytes: of the exporter, or of the largest builder; None: not known."""
    rows = [measured.graph(model.origin.architecture, tower.name, precision) for tower in towers]
    peaks = [row.peak_bytes for row in rows if row is not None]
    weights = float_weights(model, towers)
    if len(peaks) == len(rows):
        exporter: tuple[float, Basis] = (max(peaks), "measured")
    elif weights is not None:
        exporter = (measured.estimated_peak(weights), "estimate")
    else:
        return None
    builders = [(engine.peak_bytes, engine.basis) for engine in engines if engine.peak_bytes is not None]
    return max([exporter, *builders], key=lambda item: item[0])


def float_weights(model: PlannedModel, towers: Sequence[TowerPlan]) -> float | None:
    """Bytes of the whole model's float32 weights; None: not known."""
    if model.parameters is not None:
        return model.parameters * 4.0
    row = next(
        (
            row
            for precision in PRECISIONS
            if (row := measured.graph(model.origin.architecture, "text", precision)) is not None
        ),
        None,
    )
    if row is not None:
        return row.weights_bytes
    known = [tower.parameters for tower in towers if tower.parameters is not None]
    return sum(known) * 4.0 if len(known) == len(towers) else None


def total_seconds(
    model: PlannedModel,
    towers: Sequence[TowerPlan],
    engines: Sequence[EnginePlan],
    precision: str,
    kinds: Sequence[str],
    images: int,
) -> float | None:
    """The time of the export in seconds on two cores, without downloads.

    None: it is not known, because a tower's own time is not, or its operations, on which the time of the gate depends.

    Args:
        model: the model.
        towers: the towers' plans.
        engines: the engines' plans; a compiler whose time is not known counts nothing.
        precision: the precision's name.
        kinds: the kinds, of which each goes through the gate.
        images: the number of pictures for the gate, which takes twice as many captions.
    """
    if any(tower.seconds is None for tower in towers):
        return None
    seconds = sum(tower.seconds or 0.0 for tower in towers) + sum(engine.seconds or 0.0 for engine in engines)
    for tower in towers:
        size = model.towers.get(tower.name)
        # Without the operations of a text tower, those of its parameters: all of them, for each of 77 tokens.
        flops = size.flops if size is not None else 2.0 * 77 * (tower.parameters or 0)
        share = 1 if tower.name == "image" else 2
        if images <= measured.PICTURES:
            continue
        if flops is None:
            return None
        more = affordable(flops, share * images) - affordable(flops, share * measured.PICTURES)
        seconds += max(0, more) * (1 + len(kinds)) * flops / _FLOPS_PER_SECOND
    weights = float_weights(model, towers)
    if PRECISIONS[precision].quantized is not None and weights is not None:
        seconds += weights * _QUANTIZE_SECONDS_PER_BYTE
    return seconds
