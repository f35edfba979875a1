"""Energy that a machine has used since it started, where the driver counts it."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import Any

_RAPL = Path("/sys/class/powercap/intel-rapl:0/energy_uj")  # AMD's driver has the same name


def read_joules(device: str) -> float | None:
    """Joules so far, of the first GPU (NVML) or of the processor's package (RAPL); None where nothing counts them."""
    if device == "cuda":
        return _gpu_joules()
    with contextlib.suppress(OSError, ValueError):
        return int(_RAPL.read_text(encoding="ascii")) / 1e6
    return None


def _gpu_joules() -> float | None:
    found = _nvml()
    if found is None:
        return None
    library, handle = found
    try:
        return float(library.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3
    except library.NVMLError:
        return None


@functools.cache
def _nvml() -> tuple[Any, Any] | None:
    try:
        import pynvml
    except (Exception, SystemExit):  # noqa: BLE001 - it is missing, or whatever a broken library raises
        return None
    try:
        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None
