"""The check that a loaded tower keeps `engines.runtimes.protocol.TowerRuntime`, for the tests of every kind."""

from __future__ import annotations

import inspect
from typing import Any

from engines.engine_kinds import KINDS
from engines.manifest import BatchProfile
from engines.runtimes.protocol import TowerRuntime

_TYPES = {
    "kind": str,
    "description": str,
    "batch": BatchProfile,
    "on_gpu": bool,
    "splits": bool,
    "takes_device_arrays": bool,
}


def check_runtime(runtime: Any) -> None:
    """Assert that a loaded tower has every attribute and method of the protocol, with its types and parameters."""
    assert set(TowerRuntime.__annotations__) == set(_TYPES)
    for name, kind in _TYPES.items():
        assert type(getattr(runtime, name)) is kind, name
    assert runtime.kind in KINDS
    for name in ("run", "run_on_device", "close"):
        wanted = list(inspect.signature(getattr(TowerRuntime, name)).parameters)[1:]
        assert list(inspect.signature(getattr(runtime, name)).parameters) == wanted, name
