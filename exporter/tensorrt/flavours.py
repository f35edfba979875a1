"""The two libraries that share TensorRT's API, with the GPUs for which each builds, and the builder's options of each."""

from __future__ import annotations

from dataclasses import dataclass

from engines.device.gpu import find_gpu, gpu_missing
from engines.process.optional import import_or_reason
from engines.tensorrt.library import library_or_reason
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions


@dataclass(frozen=True)
class Flavour:
    """One of the libraries.

    Attributes:
        kind: the kind of its engines.
        targets: the GPU architectures for which it builds without such a GPU; empty if it builds only for the GPU it runs on.
        needs_gpu: the options that it has only where there is a GPU, with the reasons.
        lacks: the options that it does not have, with the reasons.
    """

    kind: str
    targets: tuple[str, ...] = ()
    needs_gpu: tuple[tuple[str, str], ...] = ()
    lacks: tuple[tuple[str, str], ...] = ()


FLAVOURS = {
    flavour.kind: flavour
    for flavour in (
        Flavour(
            kind="tensorrt",
        ),
        Flavour(
            kind="tensorrt-rtx",
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
    """Refuse options and machines with which no engine can be built, before slow steps begin.

    Args:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        options: the user's options.

    Returns:
        The targets to build for; a target of None is this machine's GPU.

    Raises:
        ExportError: the library or the GPU is missing, a library is broken, a target is unknown, or an option does not exist; the
            message names the remedy.
    """
    flavour = FLAVOURS[kind]
    no_gpu = gpu_missing()
    here = find_gpu()
    if not flavour.targets and (no_gpu is not None or here is None):
        raise ExportError(
            f"engine {kind} is built on the GPU it is for, and {no_gpu}: run this on that machine, or pass "
            "--engine tensorrt-rtx --target sm80 (or another), which builds anywhere"
        )
    polygraphy = import_or_reason("polygraphy", "polygraphy", "pip install 'openclip-engines[export]'")
    for library in (library_or_reason(kind), polygraphy):
        if isinstance(library, str):
            raise ExportError(f"engine {kind} cannot be built: {library}")
    for option, why in flavour.lacks:
        if getattr(options, option) not in (None, False):
            raise ExportError(f"engine {kind} has no --{option.replace('_', '-')}: {why}")
    for option, why in flavour.needs_gpu:
        if getattr(options, option) not in (None, False) and no_gpu is not None:
            raise ExportError(
                f"engine {kind} takes --{option.replace('_', '-')} only beside a GPU ({why}), and {no_gpu}"
            )
    if not flavour.targets:
        assert here is not None
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
