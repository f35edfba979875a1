"""The runtime of OpenVINO engines, on x86-64 and ARM CPUs: it compiles the bundle's ONNX graph when the graph is loaded.

In int8 it is as fast as ONNX Runtime on batches of images and faster on single images (docs/precision.md). A request runs with
all threads, because that gives the shortest latency and, with batches, the whole throughput.
"""

from __future__ import annotations

import functools
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from engines.bundle_files import existing_file
from engines.engine_kinds import KINDS
from engines.errors import EngineError, EngineUnavailableError
from engines.files.onnx_external_data import data_elsewhere
from engines.files.onnx_inline import inline_weights
from engines.inputs.arguments import whole_number
from engines.manifest import BatchProfile, Engine, Tower
from engines.process.cores import engine_threads
from engines.process.forks import PerProcess
from engines.process.optional import broken, error_line, import_or_reason
from engines.runtimes.protocol import HostRuntime

_NAME, _INSTALL = "OpenVINO", KINDS["openvino"].install_command
_NO_LINKS = (
    "OpenVINO does not open weights through links; download the bundle with snapshot_download(local_dir=…), copy it with "
    "cp -rL, or pass engine='onnxruntime'"
)


def openvino_or_reason() -> ModuleType | str:
    """The library; or the reason why there is no working one here, as one sentence with the remedy."""
    library = import_or_reason("openvino", _NAME, _INSTALL)
    if isinstance(library, str):
        return library
    try:
        _core(library).get()
        _version(library)
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises
        return broken(_NAME, error, _INSTALL)
    return library


def why_not(engine: Engine, precision: str, device: str) -> str | None:
    """The reason why this engine cannot run here; None if it can."""
    if device == "cuda":
        return "OpenVINO runs on the CPU"
    library = openvino_or_reason()
    return library if isinstance(library, str) else None


class OpenVINOOptions(TypedDict, total=False):
    """Options of ``engine="openvino"``: see `open_tower`."""

    threads: int | None


Options = OpenVINOOptions


def open_tower(
    bundle: Path, engine: Engine, tower: Tower, precision: str, device: str = "auto", *, threads: int | None = None
) -> OpenVINOTower:
    """Compile a graph.

    Args:
        bundle: the bundle's folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        precision: the graph's precision, a name in the manifest; layers that are not quantized always compute in float32.
        device: ``auto`` or ``cpu``.
        threads: number of threads for one run; None is one per physical core that this process may use, limited by its CPU quota.

    Raises:
        EngineUnavailableError: OpenVINO is missing or broken, or the device is a GPU.
        InputError: `threads` is less than 1.
        BundleError: the graph is missing.
        EngineError: the graph cannot be compiled.
    """
    if threads is not None:
        threads = whole_number("threads", threads, 1)
    reason = why_not(engine, precision, device)
    if reason is not None:
        raise EngineUnavailableError(reason)
    openvino = openvino_or_reason()
    if isinstance(openvino, str):
        raise EngineUnavailableError(openvino)
    path = existing_file(bundle, engine.file)
    version = _version(openvino)
    config: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        # Without this hint, processors with bfloat16 units would round everything to bfloat16.
        "INFERENCE_PRECISION_HINT": "f32",
        # Number of shapes whose compiled code is kept. Texts come in thousands of shapes (rows x length): with the library's 5000,
        # 1500 runs of a small tower took 1.0 GB, with this number 0.3 GB, and were no slower.
        "CPU_RUNTIME_CACHE_CAPACITY": "100",
    }
    thread_count = engine_threads() if threads is None else threads
    if thread_count is not None:
        config["INFERENCE_NUM_THREADS"] = thread_count
    try:
        core = _core(openvino).get()
        elsewhere = data_elsewhere(path)
        model = core.read_model(inline_weights(path, elsewhere, _NO_LINKS) if elsewhere else str(path))
        compiled = core.compile_model(model, "CPU", config)
        return OpenVINOTower(compiled, engine, tower, f"openvino {version} CPU")
    except EngineError:
        raise
    except Exception as error:
        raise EngineError(f"OpenVINO {version} cannot compile {path}: {error_line(error, -1)}") from error


class OpenVINOTower(HostRuntime):
    """A tower in a compiled model of OpenVINO; many threads may call it."""

    kind = "openvino"
    on_gpu = False
    splits = False

    def __init__(self, compiled: Any, engine: Engine, tower: Tower, description: str) -> None:
        self._input = tower.input.name
        self._compiled: Any = compiled
        self._idle: deque[Any] = deque()  # requests that are not running; as many are made as callers run at once
        self.description = description
        self.batch: BatchProfile = engine.batch

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch; see `engines.runtimes.protocol.TowerRuntime`. The library runs several callers one after the other."""
        compiled, idle = (
            self._compiled,
            self._idle,
        )  # these references keep both until the run ends, even if another thread closes the tower
        if compiled is None:
            raise EngineError("the engine was closed: load the bundle again")
        try:
            request = idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            # The result lies in the request's own memory, which the next run overwrites.
            result = request.infer({self._input: np.ascontiguousarray(inputs)}, share_inputs=True)
            return np.array(result[0], dtype=np.float32)
        except Exception as error:
            raise EngineError(
                f"{self.description} failed on {inputs.dtype} {inputs.shape}: {error_line(error, -1)}"
            ) from error
        finally:
            idle.append(request)

    def close(self) -> None:
        """Free the compiled model and its memory; runs that have begun end first."""
        self._compiled, self._idle = None, deque()


@functools.cache
def _core(library: Any) -> PerProcess[Any]:
    """One `Core` for each process, which stays as long as the process; it is thread-safe, and it keeps no models.

    A `Core` must not end earlier, because that can leave a thread with an unmapped stack for signals (``sigaltstack``, seen with
    OpenVINO 2026.4). The plugin of the `Core` sets this stack in the thread that compiles first, and restores the former stack only
    if the `Core` ends in that thread and was the last to set it. Python handles signals on that stack: the next Ctrl-C or SIGTERM
    would end the process by SIGSEGV.
    """
    return PerProcess(library.Core)


def _version(library: Any) -> str:
    number: str = library.__version__.split("-")[0]
    return number
