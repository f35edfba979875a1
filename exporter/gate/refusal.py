"""The error of a failed gate: the cause, as far as it is known, and the remedy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from engines.manifest import Parity
from engines.precisions import PRECISIONS
from exporter.errors import ParityGateError

# The remedies where rounding to the precision is the cause; no precision is wider than float32, whose remedy is empty.
_WIDER = {name: entry.remedy for name, entry in PRECISIONS.items() if entry.remedy}
_OTHER_ENGINE = "try another --engine, and report it with this line"


def refusal(parity: Sequence[Parity], precision: str, findings: Mapping[str, str]) -> ParityGateError:
    """Make the error for rows of which at least one did not pass.

    Args:
        parity: all rows.
        precision: the precision of the graphs.
        findings: the sentence on float64's result by engine kind, where the model was measured in float64.
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
    """Whether every embedding was finite; an engine that gives NaN or infinity is never kept, whatever loss is allowed."""
    return all(math.isfinite(tower.max_abs_error) for tower in row.towers.values())


def remedy(precision: str) -> str:
    """The remedy where embeddings are within the limits and the task lost too much accuracy to the precision."""
    return _WIDER.get(precision, _OTHER_ENGINE)


def _fault(parity: Sequence[Parity], worst: Parity, precision: str, findings: Mapping[str, str]) -> tuple[str, str]:
    """Return the cause, as far as it is known, as the rest of a sentence, and the remedy."""
    if precision not in _WIDER:  # no precision is wider than float32
        finding = findings.get(worst.engine)
        return (f"; {finding}" if finding else ""), _OTHER_ENGINE
    simulated = [row for row in parity if row.engine == "simulation"]
    if worst.engine != "simulation" and simulated and all(row.passed for row in simulated):
        return (
            "; the same graph with every layer rounded keeps the limits, so that the engine rather than the precision is to blame",
            f"{_OTHER_ENGINE}, or {_WIDER[precision]}",
        )
    return "", _WIDER[precision]
