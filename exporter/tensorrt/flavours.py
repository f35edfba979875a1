"""The two libraries that share TensorRT's API: which module, for which GPUs, and which of the builder's options it has."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from engines.gpu import find_gpu, gpu_missing
from exporter.engine_options import EngineOptions
from exporter.errors import ExportError


@dataclass(frozen=True)
class Flavour:
    """One of the libraries.

    Attributes:
        kind: of its engines.
        module: that is imported.
        packages: that may provide the module; the first is the one to install.
        install: what a user types.
        targets: GPU architectures for which it builds without such a GPU; empty if it builds for the GPU it runs on only.
        needs_gpu: options that it has only where there is a GPU, and why.
        lacks: options that it does not have, and why.
    """

    kind: str
    module: str
    packages: tuple[str, ...]
    install: str
    targets: tuple[str, ...] = ()
    needs_gpu: tuple[tuple[str, str], ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()


FLAVOURS = {
    flavour.kind: flavour
    for flavour in (
        Flavour(
            kind="tensorrt",
            module="tensorrt",
            packages=("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
            install="pip install 'openclip-engines[gpu]'",
        ),
        Flavour(
            kind="tensorrt-rtx",
            module="tensorrt_rtx",
            packages=("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
            install="pip install 'openclip-engines[rtx]'",
            targets=("sm75", "sm80", "sm86", "sm89", "sm120", "sm121"),
            needs_gpu=(("strip_weights", "its builder compiles refittable kernels with the driver"),),
            lacks=(
                ("version_compatible", "its plans have no such form"),
                ("hardware_compatible", "name several --target instead"),
                ("timing_cache", "it measures nothing at build time"),
            ),
        ),
    )
}


def check_flavour(kind: str, options: EngineOptions) -> tuple[str | None, ...]:
    """Refuse what cannot be built here, before anything slow.

    Args:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        options: of the user.

    Returns:
        The targets to build for; None is the GPU of this machine.

    Raises:
        ExportError: library or GPU is missing, a target is unknown, an option does not exist; the message names the remedy.
    """
    flavour = FLAVOURS[kind]
    missing = [name for name in (flavour.module, "polygraphy") if find_spec(name) is None]
    if missing:
        raise ExportError(f"engine {kind} needs {' and '.join(missing)}: {flavour.install} and pip install polygraphy")
    no_gpu = gpu_missing()
    here = find_gpu()
    for option, why in flavour.lacks:
        if getattr(options, option) not in (None, False):
            raise ExportError(f"engine {kind} has no --{option.replace('_', '-')}: {why}")
    for option, why in flavour.needs_gpu:
        if getattr(options, option) not in (None, False) and no_gpu is not None:
            raise ExportError(
                f"engine {kind} takes --{option.replace('_', '-')} only beside a GPU ({why}), and {no_gpu}"
            )
    if not flavour.targets:
        if no_gpu is not None or here is None:
            raise ExportError(
                f"engine {kind} is built on the GPU it is for, and {no_gpu}: run this on that machine, or pass "
                f"--engine tensorrt-rtx --target {FLAVOURS['tensorrt-rtx'].targets[1]}, which builds anywhere"
            )
        other = [target for target in options.targets if target not in (here.target, "current")]
        if other:
            raise ExportError(
                f"engine {kind} builds for the GPU it runs on, {here.target} here, not for {other[0]}: run this on such a "
                "machine, or pass --engine tensorrt-rtx"
            )
        return (None,)
    for target in options.targets:
        if target != "current" and target not in flavour.targets:
            raise ExportError(
                f"engine {kind} builds for no target {target!r}: choose from {', '.join(flavour.targets)}"
            )
    if (not options.targets or "current" in options.targets) and here is None:
        raise ExportError(
            f"engine {kind} needs a --target here, for {no_gpu}: choose from {', '.join(flavour.targets)}"
        )
    return tuple(None if target == "current" else target for target in options.targets) or (None,)


def library_version(kind: str) -> str | None:
    """The installed version of a flavour's library, from its package; None if it is not installed."""
    for package in FLAVOURS[kind].packages:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
