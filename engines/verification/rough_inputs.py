"""Rough inputs: inputs on which eager PyTorch's float32 is far from its own float64, so that no engine can be near to eager.

For such inputs the reference file holds the embeddings of the model in float64, and eager's distances from them, which limit the
engine's distances.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.manifest import Parity
from engines.schema.float64_check import Float64Check

# An engine may be this many times as far from float64 as the farthest of eager's own float32 evaluations of the same input.
# Ratios measured on MobileCLIP2-S0 with random weights: right engines, and eager with other roundings, have at most 1.0 where the
# limits fail and 2.7 anywhere; subtly wrong ones (another GELU, epsilon, pixel scale, one weight in bfloat16) at least 650.
RATIO_LIMIT = 4.0
# An engine may always be this far from float64, because that is float32's error in a model that is not rough.
LEAST_DISTANCE = 1e-6


@dataclass(frozen=True)
class RoughInputs:
    """Rough inputs of one tower, from the reference file.

    Attributes:
        inputs: (K, …), of the same dtype and row shape as the tower's other reference inputs.
        embeds: (K, D) float32, L2-normalized: embeddings by the model in float64.
        eager: (K,) float32, Euclidean distances of eager float32's embeddings from `embeds`.
        spread: (N,) float32, possible distance between two float32 evaluations of each *other* reference input.
    """

    inputs: npt.NDArray[np.generic]
    embeds: npt.NDArray[np.float32]
    eager: npt.NDArray[np.float32]
    spread: npt.NDArray[np.float32]


def keys(tower: str, inputs_key: str) -> tuple[str, str, str, str]:
    """Names in the reference file of a tower's rough inputs, their embeddings, eager's distances, and the other inputs' spread."""
    return (
        f"{tower}_rough_{inputs_key.split('_')[1]}",
        f"{tower}_rough_embeds",
        f"{tower}_rough_eager",
        f"{tower}_spread",
    )


def read_rough(arrays: Mapping[str, Any], tower: str, inputs_key: str, samples: int) -> RoughInputs | None:
    """Rough inputs of a tower; None where the file has none.

    Args:
        arrays: the reference file's arrays.
        tower: ``image`` or ``text``.
        inputs_key: name of the array that holds the tower's other inputs.
        samples: number of the other inputs.

    Raises:
        KeyError: an array is missing.
        ValueError: the arrays' lengths do not fit together, or a distance is not a positive number.
    """
    names = keys(tower, inputs_key)
    if names[0] not in arrays:
        return None
    rough = RoughInputs(*(arrays[name] for name in names))
    counts = {len(rough.inputs), len(rough.embeds), len(rough.eager)}
    if (
        len(counts) != 1
        or not len(rough.eager)
        or len(rough.spread) != samples
        or rough.eager.ndim != 1
        or rough.spread.ndim != 1
    ):
        raise ValueError(f"the lengths of {', '.join(names)} do not fit together")
    if not (np.isfinite(rough.spread).all() and np.isfinite(rough.eager).all() and (rough.eager > 0).all()):
        raise ValueError(f"{names[2]} or {names[3]} is not a distance")
    return rough


def distances(exact: npt.NDArray[np.floating], candidate: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
    """Euclidean distance (N,) of every row (N, D) from the exact row; infinity where the candidate is not finite."""
    with np.errstate(invalid="ignore", over="ignore"):
        norms = np.linalg.norm(candidate.astype(np.float64) - exact.astype(np.float64), axis=1)
    return np.where(np.isfinite(norms), norms, np.inf)


def check_distances(
    engine: npt.NDArray[np.floating], eager: npt.NDArray[np.floating], failing: int | None = None
) -> Float64Check:
    """Compare an engine's distances (N,) from float64 with eager's, input by input; N at least 1.

    Args:
        engine: the engine's distances.
        eager: eager float32's distances, the largest of all evaluations of each input.
        failing: number of inputs that are outside the limits, some of which may not be measured; None: N.
    """
    ratios = engine / np.maximum(eager, LEAST_DISTANCE / RATIO_LIMIT)
    return Float64Check(
        failing=len(engine) if failing is None else failing,
        samples=len(engine),
        eager=float(eager.max()),
        engine=float(engine.max()),
        ratio=float(ratios.max()),
        limit=RATIO_LIMIT,
    )


def kept(check: Float64Check) -> bool:
    """Whether the engine is no further from float64 than eager's own float32 error explains."""
    return check.ratio <= check.limit


def top1_margins(tie_margin: float, rough: Mapping[str, RoughInputs]) -> float | npt.NDArray[np.float64]:
    """Margin below the best caption's cosine within which rounding decides: one for all images, or (N,) one for each.

    Two embeddings at a distance of d have cosines with a third one that differ by at most d. The distances count twice, because two
    captions are compared.
    """
    if not rough:
        return tie_margin
    texts = rough["text"].spread.max(initial=0.0) if "text" in rough else 0.0
    images = rough["image"].spread.astype(np.float64) if "image" in rough else np.zeros(1)
    return np.asarray(tie_margin + 2.0 * images + 2.0 * texts, dtype=np.float64)


def describe(row: Parity) -> list[str]:
    """A sentence for each of a row's towers that were measured against float64."""
    return [
        f"{name}: {check.failing} input{'s' if check.failing != 1 else ''} judged by float64, {check.samples} measured: eager "
        f"float32 is up to {check.eager:.1e} away from it, the engine {check.engine:.1e} ({check.ratio:.2g} times as far as eager "
        f"on one input, at most {check.limit:g})"
        for name, check in row.float64.items()
    ]
