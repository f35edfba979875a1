"""What the manifest says of inputs on which float32 itself is rough: eager and the engine, each measured from float64."""

from __future__ import annotations

import msgspec


class Float64Check(msgspec.Struct, frozen=True, kw_only=True):
    """One tower on inputs outside the limits: how far eager's float32 and the engine are from the model in float64."""

    failing: int  # inputs that the limits, or another best caption, single out
    samples: int  # of those that were measured, the worst ones first
    eager: float  # largest Euclidean distance of an embedding by eager float32 from float64's
    engine: float  # the same of the engine
    ratio: float  # largest of the engine's distance to eager's on one input
    limit: float  # of the ratio
