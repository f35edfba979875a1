"""The runtime of ONNX Runtime engines, on the CPU and on NVIDIA GPUs."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict, get_args

import numpy as np
import numpy.typing as npt

from engines.bundle_files import existing_file
from engines.device.cuda import Cuda
from engines.device.gpu import gpu_missing
from engines.errors import BundleError, EngineError, EngineUnavailableError, InputError
from engines.files.onnx_external_data import data_elsewhere
from engines.inputs.arguments import whole_number
from engines.manifest import BatchProfile, Engine, Tower
from engines.onnxruntime.binding import MEMORY_REMEDY, BoundSession, Place, Room, first_line, is_about_memory
from engines.onnxruntime.cpu_nodes import check_nodes
from engines.onnxruntime.cuda_graphs import WITHOUT_GRAPH, GraphShape, graph_batches, graph_shapes
from engines.onnxruntime.cuda_session import OnnxRuntimeCudaTower
from engines.onnxruntime.options import cuda_options, session_options
from engines.process.cores import engine_threads
from engines.process.optional import broken, import_or_reason
from engines.runtimes.protocol import HostRuntime

_LOG = logging.getLogger("engines")


_NAME = "ONNX Runtime"
_INSTALL = "pip install 'openclip-engines[cpu]', or 'openclip-engines[gpu]' on a machine with an NVIDIA GPU"
# Two distributions own the module: where both were installed, uninstalling one breaks the other, and pip does not notice.
_UNINSTALL = "pip uninstall onnxruntime onnxruntime-gpu"
_INSTALL_GPU = "pip install 'openclip-engines[gpu]'"
_NOT_STARTED = "ONNX Runtime's CUDA provider did not start (its CUDA libraries are missing, or do not fit the driver)"
_PACKAGES = {"cuda-bindings": "cuda.bindings.driver", "cuda-core": "cuda.core.utils"}
# What releases say of a graph that is newer than they are.
_TOO_NEW = ("Unsupported model IR version", "is under development and support for this is limited")
_OLDER_OPSET = "install a newer one, or export the bundle with an older --opset"
_CUDA, _CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
# Default limit of the CUDA provider's arena: enough for the largest tower in float16.
_CUDA_ARENA_BYTES = 16 << 30


def onnxruntime_or_reason() -> ModuleType | str:
    """The library; or the reason why there is no working one here, as one sentence with the remedy."""
    library = import_or_reason("onnxruntime", _NAME, _INSTALL, _UNINSTALL)
    if isinstance(library, str):
        return library
    try:
        library.get_available_providers()
        library.InferenceSession, library.SessionOptions, library.__version__  # noqa: B018
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises
        return broken(_NAME, error, _INSTALL, _UNINSTALL)
    return library


def why_not(engine: Engine, precision: str, device: str) -> str | None:
    """The reason why this engine cannot run here; None if it can."""
    library = onnxruntime_or_reason()
    if isinstance(library, str):
        return library
    if device == "cpu":
        no_cuda: str | None = "the device is the CPU"
    elif _CUDA not in library.get_available_providers():
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


CpuNodes = Literal["error", "allow"]


class OnnxRuntimeOptions(TypedDict, total=False):
    """Options of ``engine="onnxruntime"``: see `open_tower`."""

    threads: int | None
    cuda_memory_limit: int
    device_id: int
    cpu_nodes: CpuNodes
    cuda_graphs: bool | int | Iterable[int] | None


Options = OnnxRuntimeOptions


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
    cuda_graphs: bool | int | Iterable[int] | None = False,
) -> OnnxRuntimeTower | OnnxRuntimeCudaTower:
    """Load a graph.

    Args:
        bundle: the bundle's folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        precision: the graph's precision, a name in the manifest.
        device: ``auto`` (the GPU if there is one), ``cpu`` or ``cuda``.
        threads: number of threads for one operator on the CPU; None is one per physical core that this process may use, limited by
            its CPU quota.
        cuda_memory_limit: largest number of bytes of device memory that the CUDA provider's arena may take for this tower, its
            weights included. A batch that does not fit is computed in parts.
        device_id: the GPU's number.
        cpu_nodes: rule for nodes of a graph on a GPU that ONNX Runtime would run on the CPU: ``error`` raises an error that names
            them, ``allow`` accepts them. Nodes that compute shapes belong on the CPU and do not count.
        cuda_graphs: batch sizes to capture as CUDA graphs while the tower is opened; smaller batches are filled up. True is
            `engines.onnxruntime.cuda_graphs.DEFAULT_BATCHES`, a number is one size. Other code in the process must not allocate
            memory on the GPU until the tower is open. The option is off by default because of that, and because one thread makes
            all runs of such a tower.

    Raises:
        EngineUnavailableError: ONNX Runtime is missing or broken, or has no provider for `device`, or nodes would run on the CPU.
        InputError: `threads` is less than 1, or an option has another value than those above.
        BundleError: the graph is missing.
        EngineError: the graph cannot be loaded or captured.
    """
    if threads is not None:
        threads = whole_number("threads", threads, 1)
    if cpu_nodes not in get_args(CpuNodes):
        raise InputError(f"cpu_nodes is {cpu_nodes!r}: pass 'error' or 'allow'")
    cuda_memory_limit = whole_number("cuda_memory_limit", cuda_memory_limit, 1, "of bytes")
    device_id = whole_number("device_id", device_id, 0)
    shapes = graph_shapes(graph_batches(cuda_graphs), tower.length)
    reason = why_not(engine, precision, device)
    if reason is not None:
        raise EngineUnavailableError(reason)
    ort = onnxruntime_or_reason()
    if isinstance(ort, str):
        raise EngineUnavailableError(ort)
    path = existing_file(bundle, engine.file)
    on_gpu = (
        "cpu" not in (device, engine.target.device) and _CUDA in ort.get_available_providers() and gpu_missing() is None
    )
    if shapes and not on_gpu:
        raise InputError("cuda_graphs needs a GPU, and this tower runs on the CPU: leave it out")
    options = session_options(ort, precision, engine_threads() if threads is None else threads, on_gpu)
    if not on_gpu:
        return OnnxRuntimeTower(_bound(ort, _session(ort, path, options, [_CPU]), tower, Place("cpu")), engine)
    cuda = _driver(device_id, shapes)
    stream = _new_stream(cuda)
    try:
        _load_cuda_libraries(ort)
        provider_options = cuda_options(device_id, cuda_memory_limit, stream, bool(shapes))
        session = _session(ort, path, options, [(_CUDA, provider_options), _CPU])
        started = session.get_providers()[0] == _CUDA
        if not started and (device == "cuda" or shapes):
            raise EngineUnavailableError(f"{_NOT_STARTED}; pass device='cpu'")
        if started and cpu_nodes == "error":
            check_nodes(session, path, ort.__version__)
    except BaseException:
        _drop_stream(cuda, stream)
        raise
    if not started:
        _drop_stream(cuda, stream)
        _LOG.warning("%s: the tower of %s runs on the CPU", _NOT_STARTED, path.name)
        return OnnxRuntimeTower(_bound(ort, session, tower, Place("cpu")), engine)
    bound = _bound(ort, session, tower, Place("cuda", device_id), (WITHOUT_GRAPH,) if shapes else ())
    if cuda is None or stream is None:
        return OnnxRuntimeTower(bound, engine, bound.room)
    return OnnxRuntimeCudaTower(cuda, bound, stream, engine, shapes)


class OnnxRuntimeTower(HostRuntime):
    """A tower in an ONNX Runtime session, with rows on the host; many threads may call it.

    Args:
        bound: the session.
        engine: the manifest's entry.
        room: function that makes room for a run, where the session's arena has a limit.
    """

    kind = "onnxruntime"
    splits = False

    def __init__(self, bound: BoundSession, engine: Engine, room: Room | None = None) -> None:
        self._bound, self._room = bound, room
        self.description = bound.description
        self.on_gpu = bound.on_gpu
        self.batch: BatchProfile = engine.batch

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch; see `engines.runtimes.protocol.TowerRuntime`."""
        return self._bound.run(inputs) if self._room is None else self._bound.run_in_parts(inputs, self._room)

    def close(self) -> None:
        """Free the session and its memory."""
        self._bound.close()


def _session(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    elsewhere = data_elsewhere(path)
    try:
        # The maps are needed only for the load, because the library copies the weights that it needs.
        mapped = {name: np.memmap(file, np.uint8, "r") for name, file in elsewhere.items() if file.stat().st_size}
    except OSError as error:
        raise BundleError(f"cannot read the weights of {path}: {error.strerror or error}") from error
    if mapped and hasattr(options, "add_external_initializers_from_files_in_memory"):  # 1.23 has not, and follows links
        options.add_external_initializers_from_files_in_memory(
            list(mapped), list(mapped.values()), [len(data) for data in mapped.values()]
        )
    try:
        # Without fallback, because after an error of the CUDA provider in any call the library's Python layer would make a new
        # session on the CPU and print a line.
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:
        words = f"ONNX Runtime {ort.__version__} cannot load {path}: {first_line(error)}"
        if any(reason in str(error) for reason in _TOO_NEW):
            words = f"ONNX Runtime {ort.__version__} is older than {path}: {_OLDER_OPSET}"
        short = providers[0] != _CPU and is_about_memory(error)
        raise EngineError(f"{words}; {MEMORY_REMEDY}" if short else words) from error


def _bound(ort: Any, session: Any, tower: Tower, place: Place, common: Sequence[tuple[str, str]] = ()) -> BoundSession:
    description = f"onnxruntime {ort.__version__} {session.get_providers()[0]}"
    return BoundSession(ort, session, tower, place, description, common)


def _driver(device_id: int, shapes: Sequence[GraphShape]) -> Cuda | None:
    """The device, for streams and memory; None where its packages are missing or broken, because rows on the host need none."""
    imported = [import_or_reason(module, package, _INSTALL_GPU) for package, module in _PACKAGES.items()]
    problems = [reason for reason in imported if isinstance(reason, str)]
    if not problems:
        return Cuda(device_id)
    needed = f"{' and '.join(_PACKAGES)} ({'; '.join(problems)})"
    if shapes:
        raise EngineUnavailableError(f"cuda_graphs needs {needed}")
    _LOG.warning("arrays on the GPU go through the host: to be read there they need %s", needed)
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
    """Load CUDA and cuDNN from the packages that pip installs, because the dynamic linker does not search there.

    This is needed even where torch is imported, because that may be a build for the CPU, or for another version of CUDA.
    """
    if hasattr(ort, "preload_dlls"):
        # The function prints the names of missing libraries, and a command's standard output may be JSON.
        with contextlib.redirect_stdout(sys.stderr):
            ort.preload_dlls()
