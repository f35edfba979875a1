"""JSON that every reader takes: RFC 8259 has no NaN and no infinity, and Python writes them nevertheless."""

from __future__ import annotations

import json
import math
from typing import Any


def json_text(value: Any) -> str:
    """As ``json.dumps``, indented, with ``null`` in the place of every number that is not finite.

    Args:
        value: of dictionaries, lists, tuples, strings, numbers, booleans and None.
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
