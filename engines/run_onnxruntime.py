"""ONNX Runtime on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.errors import BundleError, EngineError, EngineUnavailableError
from engines.manifest import BatchProfile, Engine, Tower, resolve_path

_INSTALL = "pip install 'openclip-engines[cpu]', or 'openclip-engines[gpu]' on a machine with an NVIDIA GPU"
# What the CUDA provider's arena may hold unless the caller says otherwise: enough for the largest tower in float16.
_CUDA_ARENA_BYTES = 16 << 30


def why_not(engine: Engine, precision: str, device: str) -> str | None:
    """Why this engine cannot run here; None if it can."""
    try:
        import onnxruntime
    except ImportError:
        return f"ONNX Runtime is not installed: {_INSTALL}"
    providers = onnxruntime.get_available_providers()
    has_cuda = "CUDAExecutionProvider" in providers
    if device == "cuda" and not has_cuda:
        return "this ONNX Runtime has no CUDA provider: pip install 'openclip-engines[gpu]' in place of [cpu]"
    if precision == "bf16" and (device == "cpu" or not has_cuda):
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
        cuda_memory_limit: most bytes of device memory that the CUDA provider's arena may take.
        device_id: which GPU.

    Raises:
        EngineUnavailableError: ONNX Runtime is missing, or has no provider for `device`.
        EngineError: the graph cannot be loaded.
    """
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise EngineUnavailableError(f"ONNX Runtime is not installed: {_INSTALL}") from error
    available = ort.get_available_providers()
    providers: list[Any] = ["CPUExecutionProvider"]
    wants_cuda = device == "cuda" or (device == "auto" and "CUDAExecutionProvider" in available)
    if wants_cuda:
        if "CUDAExecutionProvider" not in available:
            raise EngineUnavailableError(
                "this ONNX Runtime has no CUDA provider: install openclip-engines[gpu], not [cpu]"
            )
        providers.insert(0, ("CUDAExecutionProvider", cuda_options(device_id, cuda_memory_limit)))
    options = ort.SessionOptions()
    # Fusions of the highest level crash the CPU provider on half-precision graphs (measured with 1.32); what they would add
    # for transformers on the CPU is layout changes of convolutions, which matter to ResNets in float32 only.
    half = not wants_cuda and precision != "fp32"
    level = ort.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_EXTENDED if half else level.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads or 0  # 0: one per physical core
    options.log_severity_level = 3  # errors; they come as exceptions too
    # Threads that spin between runs burn a core each in a server that waits for requests.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0" if threads == 1 else "1")
    path = resolve_path(bundle, engine.file)
    if not path.is_file():
        raise BundleError(f"{engine.file} is missing in bundle {bundle}: copy or export the bundle again")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {_first_line(error)}") from error
    used = session.get_providers()[0]
    if device == "cuda" and used != "CUDAExecutionProvider":
        raise EngineUnavailableError(
            "ONNX Runtime's CUDA provider did not start (no GPU, or its CUDA libraries are missing); pass device='cpu'"
        )
    return OnnxRuntimeTower(session, engine, tower, f"onnxruntime {ort.__version__} {used}", used)


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

    def __init__(self, session: Any, engine: Engine, tower: Tower, description: str, provider: str) -> None:
        self._session = session
        self._input, self._output = tower.input.name, tower.output.name
        self._run_options = _run_options(provider)
        self.description = description
        self.batch: BatchProfile = engine.batch

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch; see `engines.runtime.TowerRuntime`."""
        session = self._session
        if session is None:
            raise EngineError("the engine was closed")
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


def _run_options(provider: str) -> Any:
    """On a GPU, memory of the arena that a run does not use any more goes back after each run."""
    if provider != "CUDAExecutionProvider":
        return None
    import onnxruntime as ort

    options = ort.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "gpu:0")
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
