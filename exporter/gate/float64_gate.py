"""The gate's second check of a failed float32 row, by float64: is the engine wrong, or is eager's float32 as far away?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np
import numpy.typing as npt

from engines.manifest import Limits, Parity, TowerName, TowerParity
from engines.schema.float64_check import Float64Check
from engines.verification.embeddings import cosines_of, top1_hits, within
from engines.verification.rough_inputs import RATIO_LIMIT, check_distances, distances, kept
from exporter.gate.finite import listed
from exporter.reference.eager import Reference
from exporter.reference.float64_eager import Float64Eager, NotMeasurableError

_FIRST = 4  # the number of inputs that are measured first, because they suffice where an engine is clearly wrong
_LEAST = 4
_SHARE = 4  # one input in so many is measured besides the failing ones, because it takes as long as a dozen evaluations


@dataclass
class Float64Gate:
    """The judge of float32 rows that are outside the limits.

    Attributes:
        eager: the model in float64 and eager's distances from it.
        findings: the sentence on float64's result, by the kind of a refused engine.
        rough: the towers with a row that passed because of float64.
        allowed: the Euclidean distance of two embeddings whose cosine is the limit of the mean.
        apart: the largest distance between eager and a correct engine, as a multiple of eager's distance from float64.
    """

    eager: Float64Eager
    findings: dict[str, str] = field(default_factory=dict)
    rough: set[TowerName] = field(default_factory=set)
    allowed: float = math.inf
    apart: float = RATIO_LIMIT + 1.0

    def settle(self, row: Parity, embeds: Mapping[TowerName, npt.NDArray[np.floating]]) -> Parity:
        """Return the row, passed if eager's own distance from float64 explains the engine's on every input that fails.

        Args:
            row: the row of a float32 engine that is outside the limits.
            embeds: the embeddings (N, D) of each tower for its reference's inputs.
        """
        references = {name: self.eager.references[name] for name in embeds}
        failing = failing_inputs(row.towers, references, embeds, row.limits, row.top1_agreement)
        if not all(np.isfinite(rows).all() for rows in embeds.values()):
            self.findings[row.engine] = f"it gives NaN or infinity, which eager does not ({_worst(failing)})"
            return row
        checks: dict[str, Float64Check] = {}
        try:
            with self.eager.loaded():
                for first in (True, False):
                    for name, indices in failing.items():
                        # The second pass has all failing inputs, because an engine can be wrong on some while float32 is rough on
                        # others.
                        chosen = indices[:_FIRST] if first else indices
                        self.eager.measure(name, chosen)
                        engine = distances(self.eager.exact(name, chosen), embeds[name][chosen])
                        checks[name] = check_distances(engine, self.eager.eager(name, chosen), len(indices))
                    if not all(map(kept, checks.values())):
                        break
                else:
                    for name in failing:
                        self.eager.measure(name, range(most_measured(len(references[name].inputs))))
        except NotMeasurableError as error:
            self.findings[row.engine] = (
                f"{_worst(failing)}; whether eager's own float32 is rough there is unknown: {error}"
            )
            return row
        row = msgspec.structs.replace(row, float64=checks)
        if not all(map(kept, checks.values())):
            self.findings[row.engine] = _blame(checks, failing)
            return row
        self.rough |= set(failing)
        self.allowed = math.sqrt(2.0 * (1.0 - row.limits.mean_cosine))
        return msgspec.structs.replace(row, passed=True)

    def divided(self, tower: TowerName) -> tuple[list[int], list[int]]:
        """Divide a rough tower's measured inputs into those on which float32 is rough, roughest first, and the others in order.

        An input is rough if a correct engine may be outside the limits there, on this processor or on another one.
        """
        eager = {index: measurement.eager for index, measurement in self.eager.measured[tower].items()}
        rough = {index for index, distance in eager.items() if self.apart * distance >= self.allowed}
        # If no input is rough, because the inputs were measured for another reason, such as a caption on which two images
        # disagree, the roughest one is checked.
        rough = rough or {max(eager, key=lambda index: eager[index])}
        return sorted(rough, key=lambda index: -eager[index]), sorted(set(eager) - rough)


def most_measured(inputs: int) -> int:
    """The number of inputs, out of `inputs`, that are measured as a sample besides the failing ones."""
    return min(inputs, max(_LEAST, inputs // _SHARE))


def failing_inputs(
    towers: Mapping[str, TowerParity],
    references: Mapping[TowerName, Reference],
    embeds: Mapping[TowerName, npt.NDArray[np.floating]],
    limits: Limits,
    agreement: float | None,
) -> dict[TowerName, list[int]]:
    """Find the inputs that put a row outside its limits, by tower, the worst cosine first.

    If a tower's cosines are outside, they are the inputs below the limit of the mean. If top-1 agreement is outside, they are the
    images whose best caption is not eager's, with eager's best caption and the engine's.
    """
    cosines = {name: cosines_of(reference.embeds, embeds[name]) for name, reference in references.items()}
    failing: dict[TowerName, set[int]] = {
        name: set(np.flatnonzero(cosines[name] < limits.mean_cosine).tolist())
        for name in references
        if not within(towers[name], limits)
    }
    if agreement is not None and agreement < limits.top1_agreement:
        image, text = references["image"].embeds, references["text"].embeds
        hits, best, chosen = top1_hits(image, text, embeds["image"], embeds["text"], limits.tie_margin)
        missed = np.flatnonzero(~hits)
        failing.setdefault("image", set()).update(missed.tolist())
        failing.setdefault("text", set()).update(best[missed].tolist(), chosen[missed].tolist())
    return {name: sorted(indices, key=lambda i: (cosines[name][i], i)) for name, indices in failing.items()}


def _worst(wanted: Mapping[TowerName, Sequence[int]]) -> str:
    return "the worst inputs are " + " and ".join(
        f"number {listed(indices)} of the {name} tower" for name, indices in wanted.items()
    )


def _blame(checks: Mapping[str, Float64Check], wanted: Mapping[TowerName, Sequence[int]]) -> str:
    name, check = max(checks.items(), key=lambda item: item[1].ratio)
    return (
        f"{_worst(wanted)}; from the model in float64 the {name} tower of the engine is up to {check.engine:.1e} away and eager's "
        f"own float32 up to {check.eager:.1e} ({check.ratio:.3g} times as far on one input, at most {RATIO_LIMIT:g}), so that the "
        "engine or its graph is wrong, not the checkpoint and not the precision"
    )
