"""The registry of builders: it chooses the engines of a bundle, and builds each kind with its own module."""

from __future__ import annotations

import dataclasses
import importlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from engines.device.gpu import find_gpu, gpu_missing
from engines.engine_kinds import AUTO_WITH_GPU, AUTO_WITHOUT_GPU, KINDS
from engines.precisions import PRECISIONS
from engines.tensorrt.library import library_or_reason
from exporter.builders.built import Built
from exporter.errors import ExportError, LeftOut
from exporter.options.engine_options import EngineOptions

if TYPE_CHECKING:
    from engines.manifest import Engine
    from exporter.aotinductor.program import ProgramPlan
    from exporter.exported_tower import TowerExport
    from exporter.precision.precisions import Precision
    from exporter.stages import Stages

# Engines that run the bundle's graph for CPUs as it is. (For precisions other than int8, ONNX Runtime's is for GPUs, too.)
ON_CPU = frozenset(kind.name for kind in KINDS.values() if kind.runs_graph)


class Builder(Protocol):
    """The module that `engines.engine_kinds` names as a kind's builder."""

    def check(self, kind: str, options: EngineOptions) -> None:
        """Refuse options, or a machine, with which engines of the kind cannot be built: an `ExportError` with the reason."""

    def targets(self, kind: str, options: EngineOptions) -> tuple[str, ...]:
        """The devices for which `build` makes an engine of each tower; none where it runs the graphs as they are."""

    def build(
        self, kind: str, towers: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages
    ) -> Built:
        """Build the kind's engines of all towers into the bundle's folder."""


def builder(kind: str) -> Builder:
    """Import the builder of a kind; it imports its libraries when they are needed."""
    return cast(Builder, importlib.import_module(KINDS[kind].builder))


def quantized_defaults(
    asked: Sequence[str], options: EngineOptions, precision: Precision, stages: Stages
) -> tuple[tuple[str, ...], EngineOptions]:
    """Resolve ``auto`` for int8 and fp8 on a machine without a GPU; everything else is returned as it is.

    Engines for the CPU and for GPUs hold different graphs, so the bundle gets both where they can be built; `stages` gets a note
    about an engine that is left out.

    Raises:
        ExportError: the precision is fp8, and TensorRT-RTX is missing or broken.
    """
    if precision.quantized is None or tuple(asked) != ("auto",) or gpu_missing() is None:
        return tuple(asked), options
    kinds = ["onnxruntime"] if precision.capability == 0 else []
    library = library_or_reason("tensorrt-rtx")
    if not isinstance(library, str):
        kinds.append("tensorrt-rtx")
        options = dataclasses.replace(
            options, targets=options.targets or (str(PRECISIONS[precision.name].default_target),)
        )
    elif kinds:
        stages.note(f"left out: engine tensorrt-rtx cannot be built: {library}")
    else:
        raise ExportError(
            f"{precision.name} is for GPUs, and here there is neither one nor TensorRT-RTX, which builds without: {library}"
        )
    return tuple(kinds), options


def check_precision(kinds: Sequence[str], options: EngineOptions, precision: Precision) -> None:
    """Refuse precisions that an engine or a target does not have.

    Raises:
        ExportError: an engine or a target does not have the precision; the message names alternatives.
    """
    if precision.quantized is None:
        return
    wrong = sorted(ON_CPU & set(kinds)) if precision.capability else []
    if wrong:
        raise ExportError(
            f"engine {wrong[0]} has no {precision.name} kernels: pass --engine tensorrt or tensorrt-rtx, or --int8 for the CPU"
        )
    if "aotinductor" in kinds:
        _check_quantized_packages(kinds, options, precision)
    here = find_gpu() if gpu_missing() is None else None
    for target in options.targets or (("current",) if here is not None else ()):
        name = here.target if here is not None and target == "current" else target
        number = name.removeprefix("sm")
        if number.isdecimal() and int(number) < precision.capability:
            raise ExportError(
                f"{precision.name} needs sm{precision.capability} or newer (Ada, Hopper, Blackwell), and {name} is older: choose "
                "another --target, or --int8"
            )


def _check_quantized_packages(kinds: Sequence[str], options: EngineOptions, precision: Precision) -> None:
    """Refuse quantized packages that cannot be built.

    They hold one program, which has one dtype wherever it is not quantized, and cannot hold Triton's kernels.
    """
    if options.kernels == "triton":
        raise ExportError(f"{precision.name} packages cannot hold this project's Triton kernels: leave --kernels out")
    cpu = runs_on_cpu("aotinductor", kinds, options)
    if cpu and precision.capability:
        raise ExportError(f"engine aotinductor has no {precision.name} packages for the CPU: pass --int8")
    others = [kind for kind in kinds if kind != "aotinductor" and (kind in ON_CPU) != cpu]
    if others:
        where = "the CPU" if cpu else "the GPU"
        raise ExportError(
            f"a {precision.name} bundle with aotinductor for {where} cannot hold {others[0]}, too: export it apart"
        )


def runs_on_cpu(kind: str, kinds: Sequence[str], options: EngineOptions) -> bool:
    """Whether a kind's engines will compute on the CPU alone."""
    if kind != "aotinductor":
        return kind in ON_CPU
    from exporter.builders import aotinductor

    devices = aotinductor.devices(_share(kind, kinds, options))
    if len(devices) > 1:
        raise ExportError(f"quantized packages are for one target, not for {' and '.join(devices)}: export them apart")
    return devices == ("cpu",)


def can_run(kind: str) -> bool:
    """Whether engines of a kind can run on this machine at all."""
    return not KINDS[kind].needs_gpu or gpu_missing() is None


def engine_kinds(asked: Sequence[str], options: EngineOptions, stages: Stages) -> tuple[list[str], tuple[LeftOut, ...]]:
    """Return the kinds to build, checked before any slow step begins, and those that cannot be built here.

    If several kinds are requested, one that cannot be built is reported in a line and does not prevent the bundle.

    Args:
        asked: the requested kinds, or ``auto``: TensorRT where there is a GPU and the library, else ONNX Runtime.
        options: the user's options.
        stages: the display of the lines.

    Raises:
        ExportError: a kind does not exist, or none of them can be built here.
    """
    for kind in asked:
        if kind != "auto" and kind not in KINDS:
            raise ExportError(f"engine {kind!r} is none of auto, {', '.join(KINDS)}")
    if options.kernels != "auto" and "aotinductor" not in asked:
        raise ExportError(
            f"kernels {options.kernels}: only AOTInductor's packages can hold this project's Triton kernels; "
            "add --engine aotinductor, or leave --kernels out"
        )
    kinds: list[str] = []
    problems: list[ExportError] = []
    left_out: list[LeftOut] = []
    for kind in dict.fromkeys(asked):
        chosen = _best(options, stages) if kind == "auto" else kind
        try:
            builder(chosen).check(chosen, _share(chosen, asked, options))
        except ExportError as error:
            problems.append(error)
            left_out.append(LeftOut(chosen, str(error), named=kind != "auto"))
        else:
            kinds.append(chosen)
    if not kinds:
        raise (
            problems[0] if problems else ExportError(f"no engine was asked for: choose from auto, {', '.join(KINDS)}")
        )
    if not set(kinds) - ON_CPU and not problems and options != EngineOptions():
        raise ExportError(
            f"targets, batch sizes and builder options are for engines that are built, and {' and '.join(kinds)} takes none: "
            "pass --engine tensorrt, tensorrt-rtx or aotinductor, or leave them out"
        )
    for problem in problems:
        stages.note(f"left out: {problem}")
    return list(dict.fromkeys(kinds)), tuple(left_out)


def build_engines(
    kinds: Sequence[str], exports: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages
) -> Built:
    """Build every kind of engine for every tower.

    An engine that the builder refuses is reported in a line and left out, if any other engine remains: engines of the same kind for
    the other tower and for other targets stay.

    Args:
        kinds: the kinds that `engine_kinds` returned.
        exports: the towers; their graphs are in `folder`.
        folder: the bundle's folder.
        options: the user's options.
        stages: the display and timer of the steps.

    Raises:
        ExportError: no engine could be built.
    """
    engines: list[Engine] = []
    left_out: list[LeftOut] = []
    for kind in kinds:
        module = builder(kind)
        try:
            built: Built = module.build(kind, exports, folder, _share(kind, kinds, options), stages)
        except ExportError as error:
            built = Built((), (LeftOut(kind, str(error)),))
        if not built.engines:
            shutil.rmtree(folder / "engines" / kind, ignore_errors=True)
        engines += built.engines
        left_out += built.left_out
    if not engines:
        raise ExportError(left_out[0].why)
    for item in left_out:
        stages.note(f"left out: {item.why}")
    return Built(tuple(engines), tuple(left_out))


def targets_of(kind: str, kinds: Sequence[str], options: EngineOptions) -> tuple[str, ...]:
    """The devices for which one of the kinds that `engine_kinds` returned is built, such as ``sm80``; none: it runs the graphs."""
    return builder(kind).targets(kind, _share(kind, kinds, options))


def program_plan(kinds: Sequence[str], options: EngineOptions, folder: Path) -> ProgramPlan | None:
    """Plan the programs for AOTInductor that the export of towers has to write to `folder`; None without AOTInductor."""
    if "aotinductor" not in kinds:
        return None
    from exporter.builders import aotinductor

    return aotinductor.program_plan(_share("aotinductor", kinds, options), folder)


def _share(kind: str, kinds: Sequence[str], options: EngineOptions) -> EngineOptions:
    """Return the options with a kind's share of the targets, where several kinds are requested.

    Only AOTInductor builds for the CPU, and only TensorRT's kinds build for GPUs that are not here. A kind without a share keeps
    all targets, because its own check then reports the problem with them.
    """
    if "aotinductor" not in kinds or not any(KINDS[name].gpu_targets for name in kinds if name in KINDS):
        return options
    gpu = find_gpu()
    local = ("cpu", "current", *((gpu.target,) if gpu else ()))
    share = tuple(t for t in options.targets if (t in local if kind == "aotinductor" else t != "cpu"))
    return dataclasses.replace(options, targets=share or options.targets)


def _best(options: EngineOptions, stages: Stages) -> str:
    if gpu_missing() is not None:
        return AUTO_WITHOUT_GPU
    try:
        builder(AUTO_WITH_GPU).check(AUTO_WITH_GPU, options)
    except ExportError as error:
        stages.note(f"auto takes {AUTO_WITHOUT_GPU}: {error}")
        return AUTO_WITHOUT_GPU
    return AUTO_WITH_GPU
