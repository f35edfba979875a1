"""The runtime of AOTInductor packages: compiled code for the CPU or an NVIDIA GPU, loaded by PyTorch's library.

This is the only engine that needs PyTorch where it serves. PyTorch is imported only when a package is opened, or when a package
that fits this machine and the installed version is checked, because the import takes two seconds.
"""

from __future__ import annotations

import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt

from engines.bundle_files import existing_file
from engines.device.device_arrays import DeviceEmbeddings
from engines.device.gpu import find_gpu, gpu_missing
from engines.errors import BundleError, EngineError, EngineUnavailableError, InputError
from engines.files.checksums import file_sha256
from engines.inputs.arguments import whole_number
from engines.manifest import MANIFEST_NAME, BatchProfile, Engine, Tower, read_manifest
from engines.process.cores import engine_threads
from engines.process.forks import ForkSafeLock, in_forked_child
from engines.process.optional import error_line
from engines.runtimes.torch_library import torch_or_reason, version_problem

_CPU = "cpu"
_ALIGNMENT = 16  # bytes to which inputs on a GPU are aligned, because kernels load that much at a time
_AVX2 = frozenset({"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"})
# Instruction set of a package's code to the processor's flags (/proc/cpuinfo) that it needs, best first.
_FLAGS = {"avx512": _AVX2 | {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}, "avx2": _AVX2}
# Loads take turns because PyTorch reads a package's description into one object for the whole process.
_LOADING = ForkSafeLock()


def cpu_isa() -> str | None:
    """The best instruction set for `Target.isa` that this processor has; None if it has none of them."""
    return next((isa for isa, flags in _FLAGS.items() if flags <= _cpu_flags()), None)


def why_not(engine: Engine, precision: str, device: str, device_id: int = 0) -> str | None:
    """The reason why this engine cannot run here; None if it can."""
    target = engine.target
    if target.device == _CPU and device == "cuda":
        return "built for the CPU, and the device is a GPU"
    if target.device != _CPU:
        if device == "cpu":
            return "it runs on NVIDIA GPUs, and the device is the CPU"
        reason = gpu_missing()
        if reason is not None:
            return reason
        gpu = find_gpu(device_id)
        if gpu is None:
            return f"there is no GPU {device_id}"
        if target.device != gpu.target:
            return f"built for {target.device}, the GPU here is {gpu.target} ({gpu.name})"
    if target.isa is not None and not _FLAGS.get(target.isa, frozenset({target.isa})) <= _cpu_flags():
        return f"its code uses {target.isa} instructions, which this processor lacks: export the model again on this machine"
    return version_problem(target.version, target.device != _CPU)


class AOTInductorOptions(TypedDict, total=False):
    """Options of ``engine="aotinductor"``: see `open_tower`."""

    threads: int | None
    parallel: int
    device_id: int


Options = AOTInductorOptions


def open_tower(
    bundle: Path,
    engine: Engine,
    tower: Tower,
    precision: str,
    device: str = "auto",
    *,
    threads: int | None = None,
    parallel: int = 2,
    device_id: int = 0,
) -> AOTInductorTower:
    """Load a package.

    Args:
        bundle: the bundle's folder.
        engine: the manifest's entry.
        tower: the tower's signature.
        precision: the bundle's precision.
        device: ``auto``, or the device for which the package was built: ``cpu`` or ``cuda``.
        threads: number of CPU threads **for all of PyTorch in this process** (`torch.set_num_threads`); None leaves the number
            unchanged, one per physical core unless other code set it, but no more than affinity and CPU quota allow.
        parallel: largest number of runs at a time on a GPU. On the CPU runs take turns, each on all threads.
        device_id: the GPU's number.

    Raises:
        EngineUnavailableError: PyTorch is missing, broken or of another version, or the package was built for another machine.
        InputError: `threads` or `parallel` is less than 1.
        BundleError: the package is missing or was changed. It is checked before it is loaded, because it holds code.
        EngineError: PyTorch cannot load the package.
    """
    for name, value in (("threads", threads), ("parallel", parallel)):
        if value is not None:
            whole_number(name, value, 1)
    reason = why_not(engine, precision, device, device_id)
    if reason is not None:
        raise EngineUnavailableError(reason)
    path = _checked(bundle, engine)
    torch: Any = torch_or_reason(engine.target.version)
    if isinstance(torch, str):
        raise EngineUnavailableError(torch)
    on_gpu = engine.target.device != _CPU
    if threads is None and not on_gpu:
        limit = engine_threads()
        threads = limit if limit is not None and limit < torch.get_num_threads() else None
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        with _LOADING:
            # Not torch._inductor.aoti_load_package, because it compiles a test program to compare processors and needs a compiler.
            loader = torch._C._aoti.AOTIModelPackageLoader(
                str(path), "model", False, parallel if on_gpu else 1, device_id if on_gpu else -1
            )
    except RuntimeError as error:
        raise EngineError(f"PyTorch {torch.__version__} cannot load {path}: {error_line(error)}") from error
    place = f"cuda:{device_id}" if on_gpu else _CPU
    return AOTInductorTower(loader, engine, tower, place)


class AOTInductorTower:
    """A tower in an AOTInductor package; many threads may call it.

    PyTorch holds Python's interpreter lock while a package runs, so on the CPU other Python threads wait for the end of a run.

    In a forked child, packages for the CPU run in a separate thread, because GNU's OpenMP keeps a pool for each thread that
    computes, and the pool of the thread that forked would wait in the child for threads that do not exist.
    """

    kind = "aotinductor"
    splits = False
    takes_device_arrays = True  # a package for the CPU refuses them

    def __init__(self, loader: Any, engine: Engine, tower: Tower, place: str) -> None:
        import torch

        self._torch, self._loader, self._place = torch, loader, place
        self._input, self._length = tower.input, tower.length
        self._packed = engine.input_layout == "packed"
        self.on_gpu = place != _CPU
        self._thread = None if self.on_gpu or not in_forked_child() else ThreadPoolExecutor(1, "aotinductor")
        self.batch: BatchProfile = engine.batch
        where = f"CPU {engine.target.isa}" if place == _CPU else torch.cuda.get_device_name(place)
        self.description = f"aotinductor, torch {torch.__version__} on {where}"

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed a batch; see `engines.runtimes.protocol.TowerRuntime`.

        A package for packed captions gets each row up to its end of text, all of them end to end.

        Ids must be within the vocabulary; `Embedder` checks them. The package ends the process on other ids, because its own check
        fails in a thread whose errors are not caught.

        Raises:
            InputError: the array has another dtype or shape; the package itself would read beyond the array.
            EngineError: the engine was closed, or failed.
        """
        self._check(str(inputs.dtype), inputs.shape)
        if self._thread is None:
            return self._run_rows(inputs)
        try:
            running = self._thread.submit(self._run_rows, inputs)
        except RuntimeError as error:  # the thread was stopped
            raise EngineError("the engine was closed: load the bundle again") from error
        return running.result()

    def _run_rows(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        # OpenMP's number of threads belongs to the calling thread, and PyTorch sets it in a thread that calls get_num_threads.
        self._torch.get_num_threads()
        tensors = self._inputs(self._torch.from_numpy(np.require(inputs, requirements=("C", "W"))))
        if self._place == _CPU:
            return self._run(tensors).numpy()
        with self._torch.cuda.device(self._place):
            return self._run([tensor.to(self._place) for tensor in tensors]).cpu().numpy()

    def run_on_device(self, inputs: Any, stream: int | None = None) -> DeviceEmbeddings:
        """Embed (N, …) rows that lie on the GPU.

        Args:
            inputs: an array of any library with DLPack, of the tower's dtype and shape, N within `batch`.
            stream: handle of the caller's stream, in whose order the result is ready. None: it is ready when the call returns.

        Returns:
            (N, D) float32 on the GPU.

        Raises:
            InputError: the array has another dtype, shape or device.
            EngineError: see `run`.
        """
        torch = self._torch
        if self._place == _CPU:
            raise InputError("the array is on a GPU, and this package runs on the CPU: pass a numpy array")
        with torch.cuda.device(self._place):
            used = torch.cuda.current_stream() if stream is None else torch.cuda.ExternalStream(stream)
            with torch.cuda.stream(used):
                rows = torch.from_dlpack(inputs)
                if str(rows.device) != self._place:
                    raise InputError(f"the array is on {rows.device}, the engine on {self._place}: move it there")
                self._check(str(rows.dtype).removeprefix("torch."), tuple(rows.shape))
                rows = rows.contiguous()
                if rows.data_ptr() % _ALIGNMENT:
                    rows = rows.clone()
                embeds = self._run(self._inputs(rows))
            if stream is None:
                used.synchronize()

        def keep(address: int, embeds: Any = embeds) -> None:
            """Do nothing; the default argument keeps the tensor for as long as the result is in use."""

        return DeviceEmbeddings(embeds.data_ptr(), tuple(embeds.shape), embeds.device.index, stream, keep)

    def close(self) -> None:
        """Free the package and its memory, once the runs that have begun are done."""
        self._loader = None
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _inputs(self, rows: Any) -> list[Any]:
        """The package's inputs for these rows."""
        return self._pack(rows) if self._packed else [rows]

    def _run(self, inputs: list[Any]) -> Any:
        loader = self._loader  # keeps the package until the run ends, even if another thread closes the tower
        if loader is None:
            raise EngineError("the engine was closed: load the bundle again")
        try:
            with self._torch.inference_mode():
                return loader.run(inputs)[0]
        except RuntimeError as error:
            raise EngineError(
                f"{self.description} failed on {inputs[0].dtype} {tuple(inputs[0].shape)}: {error_line(error)}"
            ) from error

    def _pack(self, ids: Any) -> list[Any]:
        """The needed ids (T,) of ids (N, L), and the start of each row's in them, int32 (N + 1,); on the same device."""
        torch = self._torch
        lengths = ids.argmax(dim=1) + 1  # up to and with the first place of the highest id
        needed = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
        starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        return [ids[needed], starts]

    def _check(self, dtype: str, shape: tuple[int, ...]) -> None:
        expected, batch, length = self._input, self.batch, self._length
        fits = dtype == expected.dtype and len(shape) == len(expected.shape)
        if fits:
            fits = all(isinstance(want, str) or got == want for got, want in zip(shape, expected.shape, strict=True))
        if fits and length is not None:
            fits = length.min <= shape[1] <= length.max
        if not fits or not 1 <= shape[0] <= (batch.max or shape[0]):
            bounds = f", L {length.min} to {length.max}" if length is not None else ""
            most = "any number" if batch.max is None else f"1 to {batch.max}"
            raise InputError(
                f"{expected.name} must be {expected.dtype} ({', '.join(map(str, expected.shape))}), N {most}{bounds}, "
                f"not {dtype} {shape}"
            )


def _checked(bundle: Path, engine: Engine) -> Path:
    path = existing_file(bundle, engine.file)
    # The gate of a running export loads engines of a bundle that has no manifest yet.
    files = read_manifest(bundle).files if os.path.lexists(bundle / MANIFEST_NAME) else {}
    expected = files.get(engine.file)
    try:
        changed = expected is not None and file_sha256(path) != expected.sha256
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    if changed:
        raise BundleError(
            f"{engine.file} in bundle {bundle} was changed: its sha256 is not the manifest's; copy it again"
        )
    return path


@functools.cache
def _cpu_flags() -> frozenset[str]:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return frozenset()
    lines = (line for line in text.splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())
