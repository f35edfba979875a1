"""ONNX Runtime on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from engines.bundle_files import existing_file
from engines.cuda import Cuda
from engines.errors import EngineError, EngineUnavailableError, InputError
from engines.gpu import gpu_missing
from engines.manifest import BatchProfile, Engine, Tower
from engines.onnxruntime_binding import BoundSession, Place, Room, first_line
from engines.onnxruntime_cuda import OnnxRuntimeCudaTower
from engines.onnxruntime_graphs import WITHOUT_GRAPH, GraphShape, graph_batches, graph_shapes
from engines.onnxruntime_nodes import RECORD_ASSIGNMENT, check_nodes

_LOG = logging.getLogger("engines")

CpuNodes = Literal["error", "allow"]

_INSTALL = "pip install 'openclip-engines[cpu]', or 'openclip-engines[gpu]' on a machine with an NVIDIA GPU"
_INSTALL_GPU = "pip install 'openclip-engines[gpu]'"
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
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
    cpu_nodes: CpuNodes = "error",
    cuda_graphs: bool | Sequence[int] = False,
) -> OnnxRuntimeTower | OnnxRuntimeCudaTower:
    """Load a graph.

    Args:
        bundle: the folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        precision: of the graph, as the manifest names it.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.
        threads: for one operator on the CPU; None is one per physical core.
        cuda_memory_limit: most bytes of device memory that the CUDA provider's arena may take, for this tower, its weights
            included. A batch that does not fit is computed in parts.
        device_id: which GPU.
        cpu_nodes: of a graph on a GPU: whether nodes that ONNX Runtime would run on the CPU are an ``error``, which names them, or
            allowed. Nodes that compute shapes belong on the CPU and do not count.
        cuda_graphs: batch sizes to capture as CUDA graphs while the tower is opened; smaller batches are filled up. True is
            `engines.onnxruntime_graphs.DEFAULT_BATCHES`. Nothing else in the process may allocate memory on the GPU until the
            tower is open. Off by default for that, and because the runs of such a tower then take turns in one thread.

    Raises:
        EngineUnavailableError: ONNX Runtime is missing, or has no provider for `device`, or nodes would run on the CPU.
        InputError: `threads` is less than 1, or an option has a value that it does not take.
        BundleError: the graph is missing.
        EngineError: the graph cannot be loaded, or not be captured.
    """
    if threads is not None and threads < 1:
        raise InputError(f"threads is {threads}: pass 1 or more, or None for one per physical core")
    if cpu_nodes not in get_args(CpuNodes):
        raise InputError(f"cpu_nodes is {cpu_nodes!r}: pass 'error' or 'allow'")
    shapes = graph_shapes(graph_batches(cuda_graphs), tower.length)
    reason = why_not(engine, precision, device)
    if reason is not None:
        raise EngineUnavailableError(reason)
    import onnxruntime as ort

    path = existing_file(bundle, engine.file)
    on_gpu = (
        "cpu" not in (device, engine.target.device) and _CUDA in ort.get_available_providers() and gpu_missing() is None
    )
    if shapes and not on_gpu:
        raise InputError("cuda_graphs needs a GPU, and this tower runs on the CPU: leave it out")
    options = session_options(ort, precision, threads, on_gpu)
    if not on_gpu:
        return OnnxRuntimeTower(_bound(ort, _session(ort, path, options, [_CPU]), tower, Place("cpu")), engine)
    cuda = _driver(device_id, shapes)
    stream = _new_stream(cuda)
    try:
        _load_cuda_libraries(ort)
        given = cuda_options(device_id, cuda_memory_limit, stream, bool(shapes))
        session = _session(ort, path, options, [(_CUDA, given), _CPU])
        started = session.get_providers()[0] == _CUDA
        if not started and (device == "cuda" or shapes):
            raise EngineUnavailableError(
                "ONNX Runtime's CUDA provider did not start (its CUDA libraries are missing, or do not fit the driver); "
                "pass device='cpu'"
            )
        if started and cpu_nodes == "error":
            check_nodes(session, path, ort.__version__)
    except BaseException:
        _drop_stream(cuda, stream)
        raise
    if not started:
        _drop_stream(cuda, stream)
        return OnnxRuntimeTower(_bound(ort, session, tower, Place("cpu")), engine)
    bound = _bound(ort, session, tower, Place("cuda", device_id), (WITHOUT_GRAPH,) if shapes else ())
    if cuda is None or stream is None:
        return OnnxRuntimeTower(bound, engine, bound.room)
    return OnnxRuntimeCudaTower(cuda, bound, stream, engine, shapes)


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
    if on_gpu:
        options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    return options


def cuda_options(device_id: int, memory_limit: int, stream: int | None = None, graphs: bool = False) -> dict[str, str]:
    """Options of the CUDA provider.

    Args:
        device_id: which GPU.
        memory_limit: most bytes of its arena.
        stream: handle of the stream that it works in; None leaves it its own, one for each run that is under way.
        graphs: whether runs can be captured.
    """
    options = {
        "device_id": str(device_id),
        # The arena may not grow beyond this, and grows by what is asked for rather than to the next power of two.
        "gpu_mem_limit": str(memory_limit),
        "arena_extend_strategy": "kSameAsRequested",
        # Trying every convolution algorithm takes seconds for each new batch size, and its workspaces stay in the arena.
        "cudnn_conv_algo_search": "HEURISTIC",
        "cudnn_conv_use_max_workspace": "0",
        # On by default: products of float32 with a mantissa of 10 bits. What is in float32 here is so for accuracy.
        "use_tf32": "0",
    }
    if stream is not None:
        options["user_compute_stream"] = str(stream)
    if graphs:
        options["enable_cuda_graph"] = "1"
    return options


class OnnxRuntimeTower:
    """A tower in an ONNX Runtime session, with rows on the host; many threads may call it.

    Args:
        bound: the session.
        engine: the manifest's entry.
        room: makes room for a run, where the session's arena has a limit.
    """

    kind = "onnxruntime"
    splits = False

    def __init__(self, bound: BoundSession, engine: Engine, room: Room | None = None) -> None:
        self._bound, self._room = bound, room
        self.description = bound.description
        self.batch: BatchProfile = engine.batch

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch; see `engines.runtime.TowerRuntime`."""
        return self._bound.run(inputs) if self._room is None else self._bound.run_in_parts(inputs, self._room)

    def close(self) -> None:
        """Drop the session and its memory."""
        self._bound.close()


def _session(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    try:
        # Without fallback: the library's Python layer would answer an error of the CUDA provider, at any call, with a new session
        # on the CPU and a print.
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:
        raise EngineError(f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}") from error


def _bound(ort: Any, session: Any, tower: Tower, place: Place, common: Sequence[tuple[str, str]] = ()) -> BoundSession:
    description = f"onnxruntime {ort.__version__} {session.get_providers()[0]}"
    return BoundSession(ort, session, tower, place, description, common)


def _driver(device_id: int, shapes: Sequence[GraphShape]) -> Cuda | None:
    """The device, for streams and memory; None where its bindings are not installed, which rows on the host do not need."""
    if find_spec("cuda") is not None and find_spec("cuda.bindings") is not None:
        return Cuda(device_id)
    if shapes:
        raise EngineUnavailableError(f"cuda_graphs needs cuda-bindings, which is not installed: {_INSTALL_GPU}")
    _LOG.warning("cuda-bindings is not installed: arrays on the GPU go through the host; %s", _INSTALL_GPU)
    return None


def _new_stream(cuda: Cuda | None) -> int | None:
    if cuda is None:
        return None
    with cuda.current():
        return cuda.create_stream()


def _drop_stream(cuda: Cuda | None, stream: int | None) -> None:
    if cuda is not None and stream is not None:
        with cuda.current():
            cuda.destroy_stream(stream)


def _load_cuda_libraries(ort: Any) -> None:
    """Load CUDA and cuDNN from the packages that pip installs, where the dynamic linker does not look by itself."""
    if "torch" not in sys.modules and hasattr(ort, "preload_dlls"):  # torch has loaded its own
        ort.preload_dlls()
