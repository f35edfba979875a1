"""The runtime of TensorRT and TensorRT-RTX engines, on NVIDIA GPUs and without PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import TypedDict

from engines.device.cuda import Cuda
from engines.device.gpu import find_gpu, gpu_missing
from engines.errors import EngineUnavailableError
from engines.inputs.arguments import whole_number
from engines.manifest import Engine, Tower
from engines.process.optional import import_or_reason
from engines.tensorrt.library import INSTALL, library_or_reason, library_version, version_mismatch
from engines.tensorrt.slot import GraphLimits
from engines.tensorrt.tower import TensorRTTower

_AMPERE = (8, 0)


def why_not(engine: Engine, precision: str, device: str, device_id: int = 0) -> str | None:
    """The reason why this engine cannot run here; None if it can."""
    if device == "cpu":
        return "it runs on NVIDIA GPUs, and the device is the CPU"
    missing = gpu_missing()
    if missing is not None:
        return missing
    gpu = find_gpu(device_id)
    if gpu is None:
        return f"there is no GPU {device_id}"
    built, compatible = engine.target.device, engine.target.device_compatible
    fits = built is None or built == gpu.target or (compatible == "ampere+" and gpu.capability >= _AMPERE)
    if not fits:
        return f"built for {built}, the GPU here is {gpu.target} ({gpu.name})"
    installed = library_version(engine.kind)
    mismatch = None if installed is None else version_mismatch(engine, installed)
    if mismatch is not None:
        return mismatch
    # The libraries come last, because their import takes half a second and the checks above do not need them.
    for library in (
        library_or_reason(engine.kind),
        import_or_reason("cuda.bindings.driver", "cuda-bindings", INSTALL[engine.kind]),
    ):
        if isinstance(library, str):
            return library
    return None


class TensorRTOptions(TypedDict, total=False):
    """Options of ``engine="tensorrt"`` and ``"tensorrt-rtx"``: see `open_tower`."""

    device_id: int
    parallel: int
    cuda_graphs: bool
    graph_limits: GraphLimits | None
    warm_up: bool


Options = TensorRTOptions


def open_tower(
    bundle: Path,
    engine: Engine,
    tower: Tower,
    precision: str,
    device: str = "auto",
    *,
    device_id: int = 0,
    parallel: int = 2,
    cuda_graphs: bool = True,
    graph_limits: GraphLimits | None = None,
    warm_up: bool = False,
) -> TensorRTTower:
    """Load an engine.

    Args:
        bundle: the bundle's folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        precision: the graph's precision, a name in the manifest.
        device: ``auto`` or ``cuda``.
        device_id: the GPU's number.
        parallel: largest number of runs at a time; each has its own buffers, so that one run copies while another computes.
        cuda_graphs: whether small batches are replayed as CUDA graphs, from the second run of their shape on.
        graph_limits: limits of the graphs; None is `GraphLimits`' defaults.
        warm_up: whether every batch size that is captured runs twice now, so that the first calls are as fast as later ones.

    Raises:
        EngineUnavailableError: the engine was built for another GPU or version, or a library is missing or broken.
        BundleError: the engine file was changed.
        EngineError: the library refuses the engine.
        InputError: `parallel` is less than 1.
    """
    parallel = whole_number("parallel", parallel, 1, "of runs")
    reason = why_not(engine, precision, device, device_id)
    if reason is not None:
        raise EngineUnavailableError(reason)
    trt = library_or_reason(engine.kind)
    if isinstance(trt, str):
        raise EngineUnavailableError(trt)
    cuda = Cuda(device_id)
    limits = (graph_limits or GraphLimits()) if cuda_graphs else None
    opened = TensorRTTower(cuda, trt, bundle, engine, tower, parallel, limits)
    if warm_up:
        opened.warm_up()
    return opened
