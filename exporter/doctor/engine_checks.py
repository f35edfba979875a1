"""Engine by engine: whether it can be built on this machine, for which targets, and on which devices it can run here."""

from __future__ import annotations

import importlib
import re
from typing import cast

import msgspec

from engines.device.gpu import find_gpu, gpu_missing
from engines.engine_kinds import KINDS
from engines.manifest import BatchProfile, Engine, Target
from engines.process.optional import import_or_reason, installed_version
from engines.runtimes.protocol import RuntimeModule
from exporter.builders.registry import builder
from exporter.doctor.libraries import LIBRARIES
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions


class EngineFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of engines on this machine.

    Attributes:
        kind: the kind's name.
        targets: the targets for which it is built here, where these are not this machine's own devices.
        why_not_built: the reason why it cannot be built here, with the remedy; None: it builds here.
        runs: devices on which it runs here: ``cpu``, ``cuda``.
        why_not_run: the reason why it runs on none; None: it runs here.
        why_not_on_gpu: the reason why it runs on the CPU only, although this machine has a GPU that it supports; None otherwise.
    """

    kind: str
    targets: tuple[str, ...] = ()
    why_not_built: str | None = None
    runs: tuple[str, ...] = ()
    why_not_run: str | None = None
    why_not_on_gpu: str | None = None


def engine_facts(name: str) -> EngineFacts:
    """Check one kind with its own builder and its own runtime, which import its library.

    Args:
        name: a kind of `engines.engine_kinds`.
    """
    targets, why_not_built = _build(name)
    kind = KINDS[name]
    reasons = {device: _why_not(name, device) for device, has in (("cpu", kind.cpu), ("cuda", kind.cuda)) if has}
    runs = tuple(device for device, reason in reasons.items() if reason is None)
    on_gpu = reasons.get("cuda") if gpu_missing() is None and runs else None
    return EngineFacts(
        kind=name,
        targets=targets,
        why_not_built=why_not_built,
        runs=runs,
        why_not_run=None if runs else next(iter(reasons.values())),
        why_not_on_gpu=on_gpu,
    )


def _build(name: str) -> tuple[tuple[str, ...], str | None]:
    """The targets for which a kind can be built (none: this machine's devices), and the reason why it cannot be."""
    for library in LIBRARIES.values():  # every engine is built from the graphs that an export makes
        if library.required:
            module = import_or_reason(library.module, library.name, library.install)
            if isinstance(module, str):
                return (), module
    targets = _elsewhere(name)
    try:
        builder(name).check(name, EngineOptions(targets=targets))
    except ExportError as error:
        words = str(error).removeprefix(f"engine {name} cannot be built: ")
        return (), re.sub(rf"^engine {name} ", "it ", words)
    return targets, None


def _elsewhere(name: str) -> tuple[str, ...]:
    """All targets of a kind that is built for GPUs that are not here, on a machine without one; else none."""
    if not KINDS[name].builds_elsewhere or gpu_missing() is None:
        return ()
    from exporter.tensorrt.flavours import FLAVOURS

    return FLAVOURS[name].targets


def _why_not(name: str, device: str) -> str | None:
    """The reason why an engine that was built here, in float32, would not run on a device of this machine; None if it would."""
    kind = KINDS[name]
    gpu = None if gpu_missing() is not None else find_gpu()
    target: str | None = "cpu"
    if device == "cuda":
        if gpu is None:
            return gpu_missing()
        target = gpu.target
    version = installed_version(*LIBRARIES[_LIBRARY.get(name, name)].distributions)
    if version is None:
        library = import_or_reason(kind.library, kind.library, kind.install_command)
        if isinstance(library, str):
            return library
        version = str(library.__version__)
    engine = Engine(
        kind=name,
        tower="image",
        file="image.onnx",
        target=Target(library=name, version=version, device=None if kind.runs_graph else target),
        batch=BatchProfile(),
    )
    return cast(RuntimeModule, importlib.import_module(kind.runtime)).why_not(engine, "fp32", device)


_LIBRARY = {"aotinductor": "torch"}  # kind to the library's name, where these differ
