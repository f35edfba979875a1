"""ONNX Runtime on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.bundle_files import existing_file
from engines.errors import EngineError, EngineUnavailableError, InputError
from engines.gpu import gpu_missing
from engines.manifest import BatchProfile, Engine, Tower

_INSTALL = "pip install 'openclip-engines[cpu]', or 'openclip-engines[gpu]' on a machine with an NVIDIA GPU"
_CUDA = "CUDAExecutionProvider"
# What the CUDA provider's arena may hold unless the caller says otherwise: enough for the largest tower in float16.
_CUDA_ARENA_BYTES = 16 << 30
_LOG_ERRORS, _LOG_FATAL = 3, 4


def why_not(engine: Engine, precision: str, device: str) -> str | None:
    """Why this engine cannot run here; None if it can."""
    try:
        import onnxruntime
    except ImportError:
        return f"ONNX Runtime is not installed: {_INSTALL}"
    if device == "cpu":
        no_cuda: str | None = "the device is the CPU"
    elif _CUDA not in onnxruntime.get_available_providers():
        no_cuda = "this ONNX Runtime has no CUDA provider: pip install 'openclip-engines[gpu]' in place of [cpu]"
    else:
        no_cuda = gpu_missing()
    if device == "cuda" and engine.target.device == "cpu":
        return "it was made for the CPU"
    if device == "cuda" and no_cuda is not None:
        return no_cuda
    if precision == "bf16" and no_cuda is not None:
        return "ONNX Runtime has no bfloat16 kernels for the CPU: use an fp32 or fp16 bundle, or a GPU"
    return None


def open_tower(
    bundle: Path,
    engine: Engine,
    tower: Tower,
    precision: str,
    device: str = "auto",
    *,
    threads: int | None = None,
    cuda_memory_limit: int = _CUDA_ARENA_BYTES,
    device_id: int = 0,
) -> OnnxRuntimeTower:
    """Load a graph.

    Args:
        bundle: the folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        precision: of the graph, as the manifest names it.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.
        threads: for one operator on the CPU; None is one per physical core.
        cuda_memory_limit: most bytes of device memory that the CUDA provider's arena may take, for this tower.
        device_id: which GPU.

    Raises:
        EngineUnavailableError: ONNX Runtime is missing, or has no provider for `device`.
        InputError: `threads` is less than 1.
        BundleError: the graph is missing.
        EngineError: the graph cannot be loaded.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}: pass 1 or more, or None for one per physical core")
    reason = why_not(engine, precision, device)
    if reason is not None:
        raise EngineUnavailableError(reason)
    import onnxruntime as ort

    path = existing_file(bundle, engine.file)
    on_gpu = (
        "cpu" not in (device, engine.target.device) and _CUDA in ort.get_available_providers() and gpu_missing() is None
    )
    providers: list[Any] = ["CPUExecutionProvider"]
    if on_gpu:
        _load_cuda_libraries(ort)
        providers.insert(0, (_CUDA, cuda_options(device_id, cuda_memory_limit)))
    try:
        session = ort.InferenceSession(str(path), session_options(ort, precision, threads, on_gpu), providers=providers)
    except Exception as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}") from error
    used = session.get_providers()[0]
    if device == "cuda" and used != _CUDA:
        raise EngineUnavailableError(
            "ONNX Runtime's CUDA provider did not start (its CUDA libraries are missing, or do not fit the driver); "
            "pass device='cpu'"
        )
    return OnnxRuntimeTower(
        session, engine, tower, f"onnxruntime {ort.__version__} {used}", _run_options(used, device_id)
    )


def session_options(ort: Any, precision: str, threads: int | None, on_gpu: bool) -> Any:
    """How a graph is optimized and run."""
    options = ort.SessionOptions()
    # The highest level adds layout changes of convolutions for the CPU, which help ResNets in float32. On half-precision graphs
    # it can crash the CPU provider (seen with 1.32), and that provider may be the one that runs when CUDA does not start.
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if precision == "fp32" else level.ORT_ENABLE_EXTENDED
    options.intra_op_num_threads = threads or 0  # 0: one per physical core
    # The memory plan is kept for each shape that was ever run, and texts come in thousands of shapes (rows x length): memory
    # grows by the plans (by a quarter in 1,500 runs of a small tower), and the runs are no faster.
    options.enable_mem_pattern = False
    # Errors come as exceptions. On a GPU they are logged too: why the provider did not start is told nowhere else.
    options.log_severity_level = _LOG_ERRORS if on_gpu else _LOG_FATAL
    return options


def cuda_options(device_id: int, memory_limit: int) -> dict[str, str]:
    """Options of the CUDA provider; an arena that doubles and never shrinks is what users report most."""
    return {
        "device_id": str(device_id),
        # The arena may not grow beyond this, and grows by what is asked for rather than to the next power of two.
        "gpu_mem_limit": str(memory_limit),
        "arena_extend_strategy": "kSameAsRequested",
        # Trying every convolution algorithm takes seconds for each new batch size, and its workspaces stay in the arena.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
    }


class OnnxRuntimeTower:
    """A tower in an ONNX Runtime session."""

    kind = "onnxruntime"
    splits = False

    def __init__(self, session: Any, engine: Engine, tower: Tower, description: str, run_options: Any) -> None:
        self._session = session
        self._input, self._output = tower.input.name, tower.output.name
        self._run_options = run_options
        self.description = description
        self.batch: BatchProfile = engine.batch

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch; see `engines.runtime.TowerRuntime`."""
        session = self._session  # a run that has begun keeps its session when another thread closes the tower
        if session is None:
            raise EngineError("the engine was closed: load the bundle again")
        try:
            result: npt.NDArray[np.float32] = session.run([self._output], {self._input: inputs}, self._run_options)[0]
        except Exception as error:
            raise EngineError(
                f"{self.description} failed on {inputs.dtype} {inputs.shape}: {_first_line(error)}"
            ) from error
        return result

    def close(self) -> None:
        """Drop the session and its memory."""
        self._session = None


def _run_options(provider: str, device_id: int) -> Any:
    """On a GPU, memory of the arena that a run does not use any more goes back after each run."""
    if provider != _CUDA:
        return None
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", f"gpu:{device_id}")
    return options


def _load_cuda_libraries(ort: Any) -> None:
    """Load CUDA and cuDNN from the packages that pip installs, where the dynamic linker does not look by itself."""
    if "torch" not in sys.modules and hasattr(ort, "preload_dlls"):  # torch has loaded its own
        ort.preload_dlls()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
