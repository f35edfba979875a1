"""JSON that every reader accepts: without NaN and infinity, which RFC 8259 does not have and which Python writes nevertheless."""

from __future__ import annotations

import json
import math
from typing import Any


def json_text(value: Any, indent: int | None = 2) -> str:
    """JSON as of ``json.dumps``, with ``null`` in the place of every number that is not finite.

    Args:
        value: dictionaries, lists, tuples, strings, numbers, booleans and None, nested.
        indent: number of blanks of a level; None puts all on one line.
    """
    return json.dumps(_finite(value), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value
