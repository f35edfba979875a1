"""The builder of TensorRT and TensorRT-RTX engines, one for each tower and target, from the tower's ONNX graph."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from engines.device.gpu import find_gpu
from engines.manifest import Engine, Profile, Target
from engines.tensorrt.library import library_version
from exporter.builders.built import Built
from exporter.errors import ExportError, LeftOut
from exporter.exported_tower import TowerExport
from exporter.options.engine_options import EngineOptions
from exporter.stages import Stages
from exporter.tensorrt.flavours import check_flavour
from exporter.tensorrt.job import BuildJob, BuildResult, run_job
from exporter.tensorrt.profiles import input_shapes, make_profiles, whole_range


def check(kind: str, options: EngineOptions) -> None:
    """Refuse options and machines with which no engine can be built, before slow steps begin.

    Raises:
        ExportError: an option, a target or the library is wrong; see `exporter.tensorrt.flavours.check_flavour`.
    """
    check_flavour(kind, options)


def targets(kind: str, options: EngineOptions) -> tuple[str, ...]:
    """The GPU architectures to build for, such as ``sm80``; the options must have passed `check`."""
    return tuple(target if target is not None else _device_here() for target in check_flavour(kind, options))


def build(kind: str, items: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages) -> Built:
    """Build one engine for each tower and target, under ``engines/<kind>/``.

    Args:
        kind: ``tensorrt`` or ``tensorrt-rtx``.
        items: the towers; their graphs are in `folder`.
        folder: the bundle's folder.
        options: the user's options.
        stages: the display and timer of the steps.

    Returns:
        The engines, and those that could not be built because a profile does not fit a tower or the builder refused.

    Raises:
        ExportError: the targets or options are wrong; see `check`.
    """
    place = folder / "engines" / kind
    place.mkdir(parents=True, exist_ok=True)
    built: list[Engine] = []
    left_out: list[LeftOut] = []
    for item in items:
        for target in check_flavour(kind, options):
            device = target if target is not None else _device_here()
            plan = place / f"{item.name}-{device}.plan"
            try:
                profiles = make_profiles(item.tower, options.batches)
                built.append(_build_engine(kind, item, target, profiles, plan, folder, options, stages))
            except ExportError as error:
                for file in (plan, plan.with_suffix(".json")):
                    file.unlink(missing_ok=True)
                left_out.append(LeftOut(kind, str(error), item.name, device))
    return Built(tuple(built), tuple(left_out))


def _build_engine(
    kind: str,
    item: TowerExport,
    target: str | None,
    profiles: tuple[Profile, ...],
    plan: Path,
    folder: Path,
    options: EngineOptions,
    stages: Stages,
) -> Engine:
    device = target if target is not None else _device_here()
    inspector = plan.with_suffix(".json")
    job = BuildJob(
        kind=kind,
        graph=str(item.graph.path),
        plan=str(plan),
        inspector=str(inspector),
        target=target,
        input=item.tower.input.name,
        shapes=tuple(input_shapes(item.tower, profile) for profile in profiles),
        workspace=options.workspace,
        optimization_level=options.optimization_level,
        timing_cache=_timing_cache(kind, device, options),
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        strip_weights=options.strip_weights,
    )
    with stages.stage(f"build {kind} {device}, {item.name}", "build", item.name) as figures:
        result = run_job(job)
        figures |= {
            "bytes": plan.stat().st_size,
            "build_seconds": result.build.seconds,
            "build_peak_memory_bytes": result.build.peak_memory_bytes,
            "fused_attention": result.build.fused_attention,
            "decomposed_attention": result.build.decomposed_attention,
        }
    for note in result.notes:
        stages.note(note)
    return Engine(
        kind=kind,
        tower=item.name,
        file=plan.relative_to(folder).as_posix(),
        target=_target(kind, device, options, result),
        batch=whole_range(profiles),
        profiles=profiles,
        stripped=options.strip_weights,
        inspector=inspector.relative_to(folder).as_posix() if result.inspected else None,
        build=result.build,
    )


def _target(kind: str, device: str, options: EngineOptions, result: BuildResult) -> Target:
    return Target(
        library=kind,
        version=result.version,
        device=device,
        device_compatible=options.hardware_compatible,
        version_compatible=options.version_compatible,
    )


def _device_here() -> str:
    gpu = find_gpu()
    if gpu is None:  # `check` found one
        raise ExportError("the GPU of this machine does not answer any more: look at nvidia-smi")
    return gpu.target


def _timing_cache(kind: str, device: str, options: EngineOptions) -> str | None:
    """The file that holds measured kernel times between builds; None for TensorRT-RTX, which measures none."""
    if kind != "tensorrt":
        return None
    if options.timing_cache is not None:
        return str(options.timing_cache)
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "openclip-engines"
    base.mkdir(parents=True, exist_ok=True)
    return str(base / f"{kind}-{library_version(kind)}-{device}.timing")
