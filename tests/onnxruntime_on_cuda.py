"""A tower of ONNX Runtime on a pretended GPU: a real session on the CPU provider, a driver whose device memory is the host's."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from fake_cuda import FakeDriver

from engines.device.cuda import Cuda
from engines.manifest import read_manifest
from engines.onnxruntime.binding import BoundSession, Place
from engines.onnxruntime.cuda_graphs import WITHOUT_GRAPH, GraphShape
from engines.onnxruntime.cuda_session import OnnxRuntimeCudaTower
from engines.runtimes.onnxruntime import open_tower


class LoggingDriver(FakeDriver):
    """Notes events and waits in the order in which they come."""

    def cuEventRecord(self, event: int, stream: int) -> Any:
        self.log.append(f"record {stream}")
        return super().cuEventRecord(event, stream)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        self.log.append(f"wait {stream}")
        return super().cuStreamWaitEvent(stream, event, flags)

    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> Any:
        self.log.append(f"copy {stream}")
        return super().cuMemcpyAsync(target, source, size, stream)


class NotedSession:
    """A real session that notes its bound runs, their graph ids and the threads they came from."""

    def __init__(self, session: Any, log: list[str]) -> None:
        self._session, self._log = session, log
        self.graph_ids: list[str] = []
        self.threads: set[int] = set()
        self.before: Callable[[], None] = lambda: None

    def run(self, *arguments: Any) -> Any:
        self.threads.add(threading.get_ident())
        self.before()
        return self._session.run(*arguments)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.threads.add(threading.get_ident())
        try:
            self.graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            self.graph_ids.append("")
        self.before()
        self._log.append("run")
        self._session.run_with_iobinding(binding, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Opened:
    """A tower on the pretended device, and what is under it."""

    def __init__(self, bundle: Path, name: Any, shapes: tuple[GraphShape, ...] = (), capacity: int = 1 << 30) -> None:
        manifest = read_manifest(bundle)
        tower = manifest.towers[name]
        engine = next(e for e in manifest.engines if e.tower == name and e.kind == "onnxruntime")
        self.driver = LoggingDriver(capacity)
        session = onnxruntime.InferenceSession(str(bundle / tower.graph), providers=["CPUExecutionProvider"])
        self.session = NotedSession(session, self.driver.log)
        common = (WITHOUT_GRAPH,) if shapes else ()
        self.bound = BoundSession(onnxruntime, self.session, tower, Place("cpu"), "onnxruntime", common)
        self.cuda = Cuda(0, self.driver)
        self.stream = self.cuda.create_stream()
        self.tower = OnnxRuntimeCudaTower(self.cuda, self.bound, self.stream, engine, shapes)
        self.plain = open_tower(bundle, engine, tower, manifest.precision, "cpu")

    def view(self, rows: np.ndarray) -> Any:
        return SimpleNamespace(ptr=rows.ctypes.data, shape=rows.shape, dtype=rows.dtype, device_id=0)

    def host(self, embeds: Any) -> np.ndarray:
        found = np.empty(embeds.shape, dtype=np.float32)
        self.cuda.copy(found.ctypes.data, embeds.address, found.nbytes, self.stream)
        return found


def pixels_of(bundle: Path, rows: int) -> np.ndarray:
    size = read_manifest(bundle).preprocess.size
    return np.random.default_rng(0).integers(0, 256, (rows, *size, 3), dtype=np.uint8)


def ids_of(rows: int, tokens: int) -> np.ndarray:
    ids = np.random.default_rng(rows).integers(1, 400, (rows, tokens)).astype(np.int32)
    ids[:, -1] = 511
    return ids
