"""Manifest fields for inputs on which float32 itself is inaccurate: distances of eager and of the engine from float64."""

from __future__ import annotations

import msgspec


class Float64Check(msgspec.Struct, frozen=True, kw_only=True):
    """One tower on inputs outside the limits: distances of eager's float32 and of the engine from the model in float64."""

    failing: int  # number of inputs that are outside the limits, or have another best caption
    samples: int  # number of those inputs that were measured, the worst ones first
    eager: float  # largest Euclidean distance of an embedding by eager float32 from float64's
    engine: float  # largest Euclidean distance of an embedding by the engine from float64's
    ratio: float  # largest quotient of the engine's distance and eager's on one input
    limit: float  # largest allowed ratio
