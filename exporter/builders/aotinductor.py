"""The builder of AOTInductor packages, for this machine's CPU or GPU, from a tower's exported program."""

from __future__ import annotations

import contextlib
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from engines.device.gpu import find_gpu, gpu_missing
from engines.manifest import BatchProfile, Engine, Target
from engines.process.cores import usable_cores
from engines.process.optional import import_or_reason
from engines.runtimes.aotinductor import cpu_isa
from exporter.aotinductor.job import CompileJob, CompileResult, compiler_problem, compiling
from exporter.builders.built import Built
from exporter.errors import ExportError, LeftOut
from exporter.memory import available_memory
from exporter.options.engine_options import EngineOptions

if TYPE_CHECKING:
    from exporter.aotinductor.program import ProgramPlan
    from exporter.exported_tower import TowerExport
    from exporter.stages import Stages

KIND = "aotinductor"
CPU = "cpu"
_MEMORY, _MEMORY_FACTOR = 1_500_000_000, 6
_LACKS = (
    "workspace",
    "optimization_level",
    "timing_cache",
    "version_compatible",
    "hardware_compatible",
    "strip_weights",
)


def check(kind: str, options: EngineOptions) -> None:
    """Refuse options and machines with which no package can be built, before slow steps begin.

    Raises:
        ExportError: PyTorch is missing or broken, there is no C++ compiler, the processor is not x86-64 with AVX2, a target is
            neither the CPU nor the GPU of this machine, a requirement of packages for this GPU is missing, or an option does not
            exist; the message names the remedy.
    """
    torch = import_or_reason("torch", "PyTorch", "pip install 'openclip-engines[export]'")
    if isinstance(torch, str):
        raise ExportError(f"engine aotinductor cannot be built: {torch}")
    if not sys.platform.startswith("linux") or cpu_isa() is None:
        raise ExportError(
            f"engine aotinductor builds on Linux and x86-64 processors with AVX2 or AVX-512, and this is {sys.platform} on "
            f"{platform.machine()}: run this on such a machine, or pass --engine onnxruntime"
        )
    problem = compiler_problem()
    if problem is not None:
        raise ExportError(f"engine aotinductor needs {problem}")
    for option in _LACKS:
        if getattr(options, option) not in (None, False):
            raise ExportError(f"engine aotinductor has no --{option.replace('_', '-')}: leave it out")
    if devices(options)[0] != CPU:
        _check_gpu()


def _check_gpu() -> None:
    from exporter.aotinductor.gpu_needs import gpu_problem

    gpu = find_gpu()
    problem = None if gpu is None else gpu_problem(gpu)
    if problem is not None:
        raise ExportError(f"engine aotinductor needs {problem}")


def devices(options: EngineOptions) -> tuple[str, ...]:
    """The devices to build for, such as ``sm90`` and ``cpu``, the GPU before the CPU.

    Raises:
        ExportError: a target is neither the CPU nor the GPU of this machine.
    """
    here = None if gpu_missing() is not None else find_gpu()
    if not options.targets:
        return (CPU,) if here is None else (here.target,)
    known = (CPU,) if here is None else (here.target, "current", CPU)
    for target in options.targets:
        if target not in known:
            what = gpu_missing() if here is None else f"that is {here.target}"
            raise ExportError(
                f"engine aotinductor builds for this machine's GPU or CPU, not for {target} ({what}): run this on a machine with "
                "such a GPU, or pass --target cpu"
            )
    requested = {here.target if here is not None and target == "current" else target for target in options.targets}
    return tuple(sorted(requested, key=lambda device: device == CPU))


def targets(kind: str, options: EngineOptions) -> tuple[str, ...]:
    """The same as `devices`, for the registry."""
    return devices(options)


def compiler_memory(program_bytes: float) -> float:
    """The most memory that the compiler of a program takes, in bytes; see tests/exporter/test_aotinductor.py."""
    return _MEMORY + _MEMORY_FACTOR * program_bytes


def program_plan(options: EngineOptions, folder: Path) -> ProgramPlan:
    """Plan the programs that `build` will need, and make `folder` for them; the usual batch is `usual_batch`."""
    from exporter.aotinductor.program import ProgramPlan

    folder.mkdir()
    targets = devices(options)
    first = targets[0]  # the GPU, if a GPU is among the targets
    most = None if first == CPU else max(batch.max for batch in options.batches)
    padded = options.kernels == "auto" and len(targets) > 1
    return ProgramPlan(folder, usual_batch(options), most, options.kernels, first, padded)


def usual_batch(options: EngineOptions) -> int:
    """The batch size to tune for: the largest `opt`, because one program serves all batches and large ones take longest."""
    return max(batch.opt for batch in options.batches)


def build(kind: str, items: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages) -> Built:
    """Build one package for each tower and target, under ``engines/aotinductor/``.

    Args:
        kind: ``aotinductor``.
        items: the towers with their programs.
        folder: the bundle's folder.
        options: the user's options.
        stages: the display and timer of the steps.

    Returns:
        The packages, and those that the compiler refused, with its message; a refused package does not prevent others.
    """
    (folder / "engines" / KIND).mkdir(parents=True, exist_ok=True)
    packages = [_package(item, device, folder) for item in items for device in devices(options)]
    engines: dict[Path, Engine] = {}
    left_out: list[LeftOut] = []
    for group in _groups(packages):
        with contextlib.ExitStack() as stack:
            waits = [stack.enter_context(compiling(package.job)) for package in group]
            for package, wait in zip(group, waits, strict=True):
                # For packages that are made at the same time, the first one's stage lasts until that package is done, and the next
                # one's stage begins there.
                try:
                    with stages.stage(
                        f"build {KIND} {package.device}, {package.item.name}", "build", package.item.name
                    ) as figures:
                        result = wait()
                        figures |= {
                            "bytes": package.path.stat().st_size,
                            "build_seconds": result.build.seconds,
                            "build_peak_memory_bytes": result.build.peak_memory_bytes,
                            "fused_attention": result.build.fused_attention,
                            "decomposed_attention": result.build.decomposed_attention,
                        }
                except ExportError as error:
                    package.path.unlink(missing_ok=True)
                    left_out.append(LeftOut(KIND, str(error), package.item.name, package.device))
                else:
                    engines[package.path] = _engine(package, folder, options, result)
    return Built(tuple(engines[package.path] for package in packages if package.path in engines), tuple(left_out))


@dataclass(frozen=True)
class _Package:
    """A package to build.

    Attributes:
        item: the tower.
        device: ``cpu`` or ``sm90``.
        path: the package's file.
        packed: whether it takes packed captions.
        job: the compiler's job.
    """

    item: TowerExport
    device: str
    path: Path
    packed: bool
    job: CompileJob


def _package(item: TowerExport, device: str, folder: Path) -> _Package:
    assert item.programs is not None  # the pipeline writes them after `program_plan`
    packed = item.programs.packed is not None and (device != CPU or item.programs.padded is None)
    program = item.programs.packed if packed else item.programs.padded
    assert program is not None
    # The name has "packed" for programs that read no manifest, such as engines/cpp.
    name = f"{item.name}-packed-{device}.pt2" if packed else f"{item.name}-{device}.pt2"
    path = folder / "engines" / KIND / name
    processor_isa = cpu_isa()
    assert processor_isa is not None  # `check` tested it
    # The smaller instruction set, because it runs everywhere and a GPU's package computes almost nothing on the CPU.
    isa = processor_isa if device == CPU else "avx2"
    job = CompileJob(
        program=str(program), package=str(path), cuda=device != CPU, isa=isa, inductor=inductor_options(device)
    )
    return _Package(item, device, path, packed, job)


def _groups(packages: Sequence[_Package]) -> list[list[_Package]]:
    """Group the packages that are compiled at the same time: those for the CPU, if there are enough cores and memory.

    A compiler for the CPU runs in one thread. Packages for a GPU are compiled alone, because the choice of kernels times them.
    """
    for_cpu = [package for package in packages if package.device == CPU]
    need = sum(compiler_memory(Path(package.job.program).stat().st_size) for package in for_cpu)
    side_by_side = usable_cores() >= len(for_cpu) and need < available_memory()
    return [*([p] for p in packages if p.device != CPU), *([for_cpu] if side_by_side else [[p] for p in for_cpu])]


def _engine(package: _Package, folder: Path, options: EngineOptions, result: CompileResult) -> Engine:
    most = None if package.device == CPU else max(batch.max for batch in options.batches)
    return Engine(
        kind=KIND,
        tower=package.item.name,
        file=package.path.relative_to(folder).as_posix(),
        target=Target(library="torch", version=result.version, device=package.device, isa=package.job.isa),
        batch=BatchProfile(min=1, opt=usual_batch(options), max=most),
        input_layout="packed" if package.packed else "padded",
        build=result.build,
    )


def inductor_options(device: str, search: bool = True) -> dict[str, bool | int | str]:
    """The compiler's options, by their names in ``torch._inductor.config``.

    Args:
        device: ``cpu``, or a GPU's architecture such as ``sm90``.
        search: whether to time several kernels for every matrix product on a GPU and take the fastest (``max_autotune``).
    """
    # Precompiled headers, 300 MB, are stored under the compiler's path, which differs in every build, so they would not be reused.
    # The check of lower bounds would refuse a batch of 1, because the compiler records that a dynamic size is not 1 even where the
    # code is the same for 1.
    common: dict[str, bool | int | str] = {
        "aot_inductor.precompile_headers": False,
        "aot_inductor.check_lowerbound": False,
    }
    if device == CPU:
        # The number of threads is that of the process that loads the package, not of this one. Frozen weights are packed for
        # oneDNN, because its matrix products are needed to reach ONNX Runtime's speed.
        return {**common, "cpp.dynamic_threads": True, "freezing": True}
    return {**common, "max_autotune": search}
