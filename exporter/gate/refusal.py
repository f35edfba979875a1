"""The error of a gate that failed: whose fault it is, as far as that is known, and what to do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engines.manifest import Parity
from engines.precisions import PRECISIONS
from exporter.errors import ParityGateError

# What may help where rounding to the precision is to blame; nothing is wider than float32, whose remedy is empty.
_WIDER = {name: entry.remedy for name, entry in PRECISIONS.items() if entry.remedy}
_OTHER_ENGINE = "try another --engine, and report it with this line"


def refusal(parity: Sequence[Parity], precision: str, findings: Mapping[str, str]) -> ParityGateError:
    """The error for rows of which one did not pass.

    Args:
        parity: all rows.
        precision: of the graphs.
        findings: engine kind to what float64 says of it, where it was asked.
    """
    broken = next((row for row in parity if not finite(row)), None)
    worst = broken or min(
        (row for row in parity if not row.passed), key=lambda row: min(t.min_cosine for t in row.towers.values())
    )
    figures = ", ".join(f"{name} min cosine {tower.min_cosine:.6f}" for name, tower in worst.towers.items())
    agreement = f", top-1 agreement {worst.top1_agreement:.1%}" if worst.top1_agreement is not None else ""
    if worst.engine == "simulation":
        what = f"{precision} arithmetic, simulated layer by layer,"
    else:
        what = f"the {precision} engine {worst.engine}"
        if not worst.engine_ran:
            what += " (its graph in ONNX Runtime, because it cannot run here)"
    why, what_to_do = _fault(parity, worst, precision, findings)
    if broken is not None and not why:
        why = "; it gives NaN or infinity, which eager does not"
    return ParityGateError(
        f"{what} does not give eager PyTorch's embeddings ({figures}{agreement}; limits: min cosine {worst.limits.min_cosine}, "
        f"mean {worst.limits.mean_cosine}, top-1 {worst.limits.top1_agreement:.0%}){why}; nothing was written: {what_to_do}"
        + (", or pass --allow-accuracy-loss to keep it and have the manifest say so" if broken is None else "")
    )


def finite(row: Parity) -> bool:
    """Whether every embedding was a number; an engine that gives NaN or infinity loses more than accuracy and is never kept."""
    return all(math.isfinite(tower.max_abs_error) for tower in row.towers.values())


def remedy(precision: str) -> str:
    """What to try where embeddings are right and a precision may have lost too much of them."""
    return _WIDER.get(precision, _OTHER_ENGINE)


def _fault(parity: Sequence[Parity], worst: Parity, precision: str, findings: Mapping[str, str]) -> tuple[str, str]:
    """What is known of the cause, as the rest of a sentence, and the remedy."""
    if precision not in _WIDER:  # nothing is wider than float32
        found = findings.get(worst.engine)
        return (f"; {found}" if found else ""), _OTHER_ENGINE
    simulated = [row for row in parity if row.engine == "simulation"]
    if worst.engine != "simulation" and simulated and all(row.passed for row in simulated):
        return (
            "; the same graph with every layer rounded keeps the limits, so that the engine rather than the precision is to blame",
            f"{_OTHER_ENGINE}, or {_WIDER[precision]}",
        )
    return "", _WIDER[precision]
