"""Facts of a machine: versions, driver, compilers, the GPU's properties; and the vendor's matrix products at a tower's shapes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from benchmarks.harness.timing import timed
from benchmarks.records.estimates import estimate
from benchmarks.records.figures import FIGURES
from benchmarks.records.flops_and_ceilings import ceiling_tflops
from benchmarks.records.machine import nvidia_smi, versions
from benchmarks.records.precisions import torch_dtype
from benchmarks.records.rows import Row, Status
from kernels.choices import unmeasured

if TYPE_CHECKING:
    from benchmarks.harness.keeper import Keeper

_PACKAGES = (
    "torch", "triton", "torchvision", "open_clip_torch", "timm", "transformers", "onnx", "onnxscript", "onnx-ir", "onnxruntime",
    "onnxruntime-gpu", "tensorrt", "tensorrt-rtx-cu13", "numpy", "msgspec", "ftfy", "cuda-bindings", "cuda-core",
    "nvidia-cudnn-cu13", "nvidia-cublas", "pytest", "pytest-xdist", "pytest-timeout",
)  # fmt: skip
_DRIVER = {
    "driver_version": "driver",
    "memory.total": "memory of the GPU",
    "clocks.sm": "clock at rest",
    "clocks.max.sm": "highest clock",
    "power.limit": "power limit",
}


def keep_facts(keeper: Keeper, products: Sequence[Sequence[int]], precision: str) -> bool:
    """Rows of ``what = fact`` and of ``what = gemm``: a linear layer with bias for each (rows, in, out) of `products`."""
    if not keeper.is_done(("fact", "python", "", "", "", "0", "")):
        found = [_fact(*fact) for fact in _facts(keeper.device)]
        keeper.add(found)
        for row in found:
            if row.status == "ok":
                print(f"  {row.model:<28}{row.note or f'{row.value:g}'}", flush=True)
    for m, k, n in products:
        shape = f"{m}x{k}x{n}"
        if keeper.is_done(("gemm", "linear, bias", "", "torch", precision, "0", shape)):
            continue
        if keeper.late:
            return False
        keeper.add(_product(keeper, m, k, n, precision, shape))
    return True


def _facts(device: str) -> list[tuple[str, float | None, str]]:
    """Name, value and words; the value is 1 where only the words say something, and None where it is not there."""
    found: list[tuple[str, float | None, str]] = [("python", 1, platform.python_version())]
    for package in _PACKAGES:
        try:
            found.append((package, 1, version(package)))
        except PackageNotFoundError:
            found.append((package, None, "not installed"))
    for tool, index in (("g++", 0), ("nvcc", -2)):
        line = _tool_version(tool, index)
        found.append((tool, None if line is None else 1, line or "not there"))
    found.append(("processor cores", float(len(os.sched_getaffinity(0))), ""))
    found.append(("memory, GB", os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, ""))
    for field, name in _DRIVER.items() if device == "cuda" else ():
        value = nvidia_smi(field)
        found.append((name, None if value is None else 1, value or "nvidia-smi does not say"))
    if device == "cuda":
        found += _device_facts()
    return found


def _device_facts() -> list[tuple[str, float | None, str]]:
    import torch

    properties = torch.cuda.get_device_properties(0)
    arch = f"sm{properties.major}{properties.minor}"
    numbers = {
        "multiprocessors": "multi_processor_count",
        "L2 cache, bytes": "L2_cache_size",
        "shared memory of a block, bytes": "shared_memory_per_block_optin",
        "memory, bytes": "total_memory",
    }
    found: list[tuple[str, float | None, str]] = [("architecture", 1, arch)]
    for name, attribute in numbers.items():
        value = getattr(properties, attribute, None)
        found.append((name, value, "" if value is not None else f"this torch does not tell {attribute}"))
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    found.append(("cuDNN", cudnn, "" if cudnn else "torch has none"))
    found.append(("CUDA of torch", 1, str(torch.version.cuda)))
    problem = unmeasured(arch)
    found.append(("measured kernels", 0 if problem else 1, problem or f"on {arch}"))
    return found


def _fact(name: str, value: float | None, words: str) -> Row:
    status: Status = "missing" if value is None else "ok"
    return Row("fact", name, "fact", value=value, note=words, status=status)


def _tool_version(tool: str, index: int) -> str | None:
    """A line of a compiler's ``--version``; None where the compiler is not there."""
    if shutil.which(tool) is None:
        return None
    try:
        ran = subprocess.run([tool, "--version"], capture_output=True, text=True, check=True, timeout=30)
        return ran.stdout.strip().splitlines()[index]
    except (OSError, subprocess.SubprocessError, IndexError):
        return None


def _product(keeper: Keeper, m: int, k: int, n: int, precision: str, shape: str) -> list[Row]:
    import torch
    from torch.nn import functional as F

    def row(figure: str, **values: object) -> Row:
        unit = FIGURES[figure].unit
        place = {"engine": "torch", "precision": precision, "shape": shape, "unit": unit}
        return Row("gemm", "linear, bias", figure, versions=versions(("torch",)), **place, **values)  # type: ignore[arg-type]

    dtype = torch_dtype(precision)
    try:
        x, weight = (torch.randn(rows, k, device=keeper.device).to(dtype) for rows in (m, n))
        bias = torch.randn(n, device=keeper.device).to(dtype)
        seconds = timed(lambda: F.linear(x, weight, bias), keeper.device, seconds=0.25)
    except RuntimeError as error:  # a card without room for it, say
        return [row("tflops", status="failed", note=" ".join(str(error).split())[:200])]
    rate = estimate([2.0 * m * k * n / s / 1e12 for s in seconds])
    figures = {"time": estimate([1e6 * s for s in seconds]), "tflops": rate}
    ceiling = ceiling_tflops(keeper.results, precision)
    if ceiling:
        figures["fraction_of_ceiling"] = rate.map(1 / ceiling)
    share = f", {rate.value / ceiling:.0%} of the ceiling" if ceiling else ""
    print(f"  linear, bias {shape:<22}{rate.value:,.1f} TFLOP/s{share}", flush=True)
    return [
        row(
            figure,
            value=one.value,
            low=one.low,
            high=one.high,
            repeats=one.repeats,
            status="noisy" if one.noisy else "ok",
        )
        for figure, one in figures.items()
    ]
