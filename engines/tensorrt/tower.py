"""A tower in a TensorRT engine: rows on the host or on the device, split into runs over a few slots."""

from __future__ import annotations

import functools
import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from engines.device.cuda import Cuda, OutOfDeviceMemoryError
from engines.device.device_arrays import LEGACY_STREAM, DeviceEmbeddings, check_device_rows, device_view
from engines.device.gpu import find_gpu
from engines.errors import EngineError
from engines.manifest import BatchProfile, Engine, Tower
from engines.tensorrt.library import load_engine
from engines.tensorrt.pool import SlotPool
from engines.tensorrt.shapes import Run, TowerShape, plan_runs
from engines.tensorrt.slot import GraphLimits, Slot

_ERRORS_KEPT = 4
_PLANS_KEPT = 4096


class TensorRTTower:
    """A tower in a TensorRT engine; many threads may call it. It takes any number of rows, and splits and pads them itself.

    Args:
        cuda: the device.
        trt: the library's module.
        bundle: the bundle's folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        parallel: largest number of runs at a time.
        graphs: limits of the CUDA graphs; None: no graphs.
    """

    on_gpu = True
    splits = True  # `run` takes any number of rows, see engines.runtimes.protocol.TowerRuntime
    takes_device_arrays = True

    def __init__(
        self,
        cuda: Cuda,
        trt: Any,
        bundle: Path,
        engine: Engine,
        tower: Tower,
        parallel: int,
        graphs: GraphLimits | None,
    ) -> None:
        self.kind = engine.kind
        self.batch: BatchProfile = engine.batch
        self._profiles = engine.profiles
        self._cuda, self._trt, self._graphs = cuda, trt, graphs
        self._errors: deque[str] = deque(maxlen=_ERRORS_KEPT)
        with cuda.current():
            self._runtime, self._engine = load_engine(trt, bundle, engine, tower.graph, cuda.device, self._errors)
        gpu = find_gpu(cuda.device)
        self.description = f"{engine.kind} {trt.__version__} on {gpu.name if gpu else f'GPU {cuda.device}'}"
        self._shape = _tower_shape(tower)
        self._dynamic = None in self._shape.row
        self._plan = functools.lru_cache(_PLANS_KEPT)(lambda rows, tokens: plan_runs(rows, tokens, engine.profiles))
        self._parallel = parallel
        self._pool = SlotPool(lambda: Slot(cuda, trt, self._engine, self._shape, self._graphs, self._errors), parallel)

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed any number of rows (N, …).

        Raises:
            EngineError: the engine failed, was closed, or the device has no memory even for one row.
        """
        self._check_open()
        rows = len(inputs)
        result = np.empty((rows, self._shape.dim), dtype=np.float32)
        with self._cuda.current():
            self._run_host(np.ascontiguousarray(inputs), result)
        return result

    def run_on_device(self, inputs: Any, stream: int | None = None) -> DeviceEmbeddings:
        """Embed (N, …) rows that lie on the GPU.

        Args:
            inputs: an array of any library with DLPack or the CUDA array interface, contiguous, of the tower's dtype and shape.
            stream: handle of the caller's stream, in whose order the result is ready, without any wait. None: the result is ready
                when the call returns.

        Returns:
            (N, D) float32 on the GPU.

        Raises:
            InputError: the array has another dtype or shape.
            EngineError: see `run`.
        """
        self._check_open()
        with self._cuda.current():
            slot = self._pool.acquire()
            try:
                return self._run_device(slot, inputs, stream)
            finally:
                self._pool.release(slot)

    def warm_up(self) -> None:
        """Run every shape that gets a CUDA graph twice, in every slot."""
        limits = self._graphs
        if limits is None:
            return
        length = self._profiles[0].length
        tokens = (length.opt if length else 0) if self._dynamic else None
        shapes = {run for rows in range(1, limits.rows + 1) for run in plan_runs(rows, tokens, self._profiles)[:1]}
        with self._cuda.current():
            slots = [self._pool.acquire() for _ in range(self._parallel)]
            try:
                for slot in slots:
                    for run in sorted(shapes, key=lambda run: -run.batch):
                        rows = np.zeros((run.rows, *self._shape.shape(run)[1:]), dtype=self._shape.dtype)
                        for _ in range(2):
                            slot.begin(run, rows)
                            slot.finish(run, np.empty((run.rows, self._shape.dim), dtype=np.float32))
            finally:
                for slot in slots:
                    self._pool.release(slot)

    def close(self) -> None:
        """Free the engine, once the runs that have begun are done; `run` fails afterwards."""
        if self._engine is None:
            return
        with self._cuda.current():
            self._pool.close()
            self._engine = self._runtime = None

    def _check_open(self) -> None:
        if self._engine is None:
            raise EngineError("the engine was closed: load the bundle again")

    def _run_host(self, inputs: npt.NDArray[Any], result: npt.NDArray[np.float32]) -> None:
        tokens = inputs.shape[1] if self._dynamic else None
        todo = deque(self._plan(len(inputs), tokens))
        begun: deque[tuple[Slot, Run]] = deque()
        try:
            while todo:
                run = todo.popleft()
                # The next run's rows are copied while this run computes, if another slot is idle.
                slot = self._pool.acquire() if not begun else self._pool.acquire_now()
                if slot is None:
                    self._finish(*begun.popleft(), result)
                    todo.appendleft(run)
                    continue
                try:
                    slot.begin(run, inputs[run.start : run.start + run.rows])
                except OutOfDeviceMemoryError as error:
                    self._pool.release(slot)
                    while begun:
                        self._finish(*begun.popleft(), result)
                    todo = deque(self._smaller(run, len(inputs), tokens, error))
                except BaseException:
                    self._pool.release(slot)
                    raise
                else:
                    begun.append((slot, run))
            while begun:
                self._finish(*begun.popleft(), result)
        finally:
            for slot, _ in begun:  # only after an error some are left
                slot.wait()
                self._pool.release(slot)

    def _finish(self, slot: Slot, run: Run, result: npt.NDArray[np.float32]) -> None:
        try:
            slot.finish(run, result[run.start : run.start + run.rows])
        finally:
            self._pool.release(slot)

    def _smaller(self, run: Run, rows: int, tokens: int | None, error: OutOfDeviceMemoryError) -> list[Run]:
        """The rest of a batch in runs of half the size.

        Raises:
            EngineError: the run was already the smallest that the engine takes.
        """
        least = min(profile.batch.min for profile in self._profiles)
        if run.batch <= max(least, 1):
            needed = f"{error.needed / 1e6:.0f} MB" if error.needed else "more"
            free = self._cuda.memory()[0]
            raise EngineError(
                f"{self.description} has no room for a batch of {run.batch}: {needed} needed, {free / 1e6:.0f} MB free; "
                "free device memory, load the bundle with parallel=1, or load one tower only"
            ) from error
        limit = max(run.batch // 2, least)
        rest = plan_runs(rows - run.start, tokens, self._profiles, limit)
        return [Run(r.start + run.start, r.rows, r.profile, r.batch, r.length) for r in rest]

    def _run_device(self, slot: Slot, inputs: Any, stream: int | None) -> DeviceEmbeddings:
        stream = LEGACY_STREAM if stream == 0 else stream
        used = slot.stream if stream is None else stream
        view = device_view(inputs, used)
        rows = check_device_rows(view, self._shape.dtype, self._shape.row, self._cuda.device)
        tokens = int(view.shape[1]) if self._dynamic else None
        size = self._shape.output_bytes(rows)
        address = self._cuda.allocate(size) if stream is None else self._cuda.allocate_in_order(size, stream)
        free = functools.partial(self._free, stream)
        result = DeviceEmbeddings(address, (rows, self._shape.dim), self._cuda.device, stream, free)
        row_bytes = math.prod(view.shape[1:]) * self._shape.dtype.itemsize
        todo = deque(self._plan(rows, tokens))
        while todo:
            run = todo.popleft()
            exact = Run(
                run.start, run.rows, run.profile, run.batch, tokens
            )  # rows on the device are not padded to a bucket
            source = int(view.ptr) + run.start * row_bytes
            target = address + self._shape.output_bytes(run.start)
            try:
                slot.embed_on_device(exact, source, target, used)
            except OutOfDeviceMemoryError as error:
                slot.wait()
                todo = deque(self._smaller(run, rows, tokens, error))
        if stream is None:
            slot.wait()
        return result

    def _free(self, stream: int | None, address: int) -> None:
        with self._cuda.current():
            if stream is None:  # `free` waits for all work, because the streams that read the memory are not known
                self._cuda.free(address)
            else:
                self._cuda.free_in_order(address, stream)


def _tower_shape(tower: Tower) -> TowerShape:
    sizes = tuple(size if isinstance(size, int) else None for size in tower.input.shape[1:])
    dim = tower.output.shape[1]
    assert isinstance(dim, int)
    return TowerShape(
        input=tower.input.name,
        output=tower.output.name,
        dtype=np.dtype(tower.input.dtype),
        row=sizes,
        dim=dim,
        pad=tower.length.pad_id if tower.length is not None else 0,
    )
