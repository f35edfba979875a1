"""TensorRT and TensorRT-RTX as libraries: their import, their versions, and the loading of an engine file."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any

from engines.device.gpu import find_gpu
from engines.engine_kinds import KINDS
from engines.errors import BundleError, EngineError
from engines.files.bundle_paths import resolve_path
from engines.manifest import MANIFEST_NAME, Engine, read_manifest
from engines.process.optional import broken, import_or_reason, installed_version

MODULES = {kind: KINDS[kind].library for kind in ("tensorrt", "tensorrt-rtx")}
INSTALL = {kind: KINDS[kind].install_command for kind in MODULES}
# Names of the distributions that bring each kind's library.
PACKAGES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt-rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
}


def library_or_reason(kind: str) -> ModuleType | str:
    """A kind's library; or the reason why there is no working one here, as one sentence with the remedy."""
    name = MODULES[kind]
    library = import_or_reason(name, name, INSTALL[kind])
    if isinstance(library, str):
        return library
    try:
        library.Runtime, library.ILogger, library.__version__  # noqa: B018
    except Exception as error:  # noqa: BLE001 - whatever a broken library raises
        return broken(name, error, INSTALL[kind])
    return library


@functools.cache
def library_version(kind: str) -> str | None:
    """The installed version of a kind's library, broken or not; None if it is not installed. It is imported only if needed."""
    installed = installed_version(*PACKAGES[kind])
    if installed is None:
        library = library_or_reason(kind)
        installed = None if isinstance(library, str) else str(library.__version__)
    return installed


def version_mismatch(engine: Engine, installed: str) -> str | None:
    """The reason why an engine does not run with the installed version of its library; None if it does.

    An engine runs only with the exact version that built it, including the patch; a version compatible engine also runs with later
    versions of the same major version.
    """
    built = engine.target.version
    if _release(built) == _release(installed):
        return None
    if engine.target.version_compatible:
        if _release(built)[:1] == _release(installed)[:1] and _release(built) <= _release(installed):
            return None
        return f"built version compatible from {engine.target.library} {built} on, {installed} is installed"
    return (
        f"built with {engine.target.library} {built}, {installed} is installed: install that version, or build it again"
    )


def load_engine(trt: Any, bundle: Path, engine: Engine, graph: str, device: int, errors: deque[str]) -> tuple[Any, Any]:
    """Deserialize an engine, and load its weights from the graph if its file has none.

    Args:
        trt: the library's module.
        bundle: the bundle's folder.
        engine: the manifest's entry.
        graph: the tower's ONNX file, for engines without weights.
        device: number of the GPU on which the engine will run.
        errors: a queue to which the library's error messages are added, now and later.

    Returns:
        The library's `Runtime`, which has to outlive the engine, and its `ICudaEngine`.

    Raises:
        BundleError: the file was changed. It is checked before it is loaded, because a plan holds code.
        EngineError: the library refuses the engine; the message names the target of its build, and this machine's GPU and driver.
    """
    path = resolve_path(bundle, engine.file)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    # The gate of a running export loads engines of a bundle that has no manifest yet.
    files = read_manifest(bundle).files if os.path.lexists(bundle / MANIFEST_NAME) else {}
    expected = files.get(engine.file)
    if expected is not None and hashlib.sha256(data).hexdigest() != expected.sha256:
        raise BundleError(
            f"{engine.file} in bundle {bundle} was changed: its sha256 is not the manifest's; copy it again"
        )
    log = make_log(trt, errors)
    runtime = trt.Runtime(log)
    if engine.target.version_compatible:
        runtime.engine_host_code_allowed = True  # such plans contain a small runtime; its checksum was checked above
    loaded = runtime.deserialize_cuda_engine(data)
    del data
    if loaded is None:
        raise EngineError(
            f"{trt.__name__} {trt.__version__} cannot load {path}, {_built_and_here(engine, device)}: {last(errors)}"
        )
    if engine.stripped:
        refitter = trt.Refitter(loaded, log)
        parser = trt.OnnxParserRefitter(refitter, log)
        if not parser.refit_from_file(str(resolve_path(bundle, graph))) or not refitter.refit_cuda_engine():
            raise EngineError(f"cannot put the weights of {graph} into {path}: {last(errors)}")
    return runtime, loaded


def make_log(trt: Any, errors: deque[str]) -> Any:
    """A logger for the library that adds its errors to `errors` and prints nothing."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(trt.ILogger.Severity.ERROR):
                errors.append(message)

    return Log()


def last(errors: deque[str]) -> str:
    """The library's last error, on one line."""
    return errors[-1].strip().replace("\n", " ")[:400] if errors else "it did not say why"


def _built_and_here(engine: Engine, device: int) -> str:
    gpu = find_gpu(device)
    here = f"{gpu.name}, {gpu.target}, CUDA {gpu.driver[0]}.{gpu.driver[1]}" if gpu else "no GPU"
    target = engine.target
    return f"built for {target.device or 'any GPU'} with {target.library} {target.version} (here: {here})"


def _release(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split("+")[0].split(".")[:3] if part.isdecimal())
