"""Facts about this machine's NVIDIA GPUs, read through the driver's own library, so that no package has to be installed."""

from __future__ import annotations

import ctypes
import functools
import sys
from dataclasses import dataclass

from engines.process.optional import error_words

_LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_NAME_BYTES = 256
_CALLS = (
    "cuInit",
    "cuDeviceGetCount",
    "cuDeviceGet",
    "cuDeviceGetName",
    "cuDeviceGetAttribute",
    "cuDriverGetVersion",
)
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR of cuda.h


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        index: the driver's number of the GPU, within CUDA_VISIBLE_DEVICES.
        name: product name, such as ``NVIDIA A100-SXM4-80GB``.
        capability: compute capability, (major, minor).
        driver: the newest CUDA version that the driver supports, (major, minor).
    """

    index: int
    name: str
    capability: tuple[int, int]
    driver: tuple[int, int]

    @property
    def target(self) -> str:
        """The GPU architecture as in engines' labels: ``sm80``."""
        return f"sm{self.capability[0]}{self.capability[1]}"


@functools.cache
def gpu_missing() -> str | None:
    """The reason why no NVIDIA GPU can be used; None if there is a usable one.

    The answer comes from the driver and not from ONNX Runtime, because ONNX Runtime's GPU build lists the CUDA provider on every
    machine, and only logs that it fell back to the CPU.
    """
    driver = _driver()
    if isinstance(driver, str):
        return driver
    count = ctypes.c_int(0)
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0 or count.value < 1:
        return "the NVIDIA driver finds no GPU"
    return None


@functools.cache
def find_gpu(index: int = 0) -> Gpu | None:
    """The GPU with number `index`, or None."""
    driver = _driver()
    if gpu_missing() is not None or isinstance(driver, str):
        return None
    device, version = ctypes.c_int(0), ctypes.c_int(0)
    major, minor = ctypes.c_int(0), ctypes.c_int(0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    codes = (
        driver.cuDeviceGet(ctypes.byref(device), index),
        driver.cuDeviceGetName(name, _NAME_BYTES, device),
        driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device),
        driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device),
        driver.cuDriverGetVersion(ctypes.byref(version)),
    )
    if any(codes):
        return None
    return Gpu(
        index,
        name.value.decode(errors="replace"),
        (major.value, minor.value),
        (version.value // 1000, version.value % 1000 // 10),
    )


def _driver() -> ctypes.CDLL | str:
    """The driver's library; or the reason why there is no working one."""
    try:
        driver = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        if sys.platform.startswith("linux") and f"{_LIBRARY}: cannot open shared object file: No such file" not in str(
            error
        ):
            return f"the library of the NVIDIA driver cannot be loaded ({error_words(error)}): install the driver anew"
        return "this machine has no NVIDIA driver"
    absent = [name for name in _CALLS if not hasattr(driver, name)]
    if absent:
        return f"the library of the NVIDIA driver, {_LIBRARY}, lacks {absent[0]}: install the driver anew"
    return driver
