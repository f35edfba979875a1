"""AOTInductor packages of a tower, for this machine's CPU or GPU, from its exported program."""

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
# A compiler's peak memory is at most this, and so many times the program; see tests/exporter/test_aotinductor.py.
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
    """Refuse early what cannot be built here.

    Raises:
        ExportError: PyTorch is missing or broken, there is no C++ compiler, another processor than x86-64 with AVX2, a target that
            is neither the CPU nor the GPU of this machine, something that packages for this GPU need is missing, or an option does
            not exist; the message names the remedy.
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
    """What to build for, GPU before CPU: ``sm90``, ``cpu``.

    Raises:
        ExportError: a target that is neither the CPU nor the GPU of this machine.
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
    asked = {here.target if here is not None and target == "current" else target for target in options.targets}
    return tuple(sorted(asked, key=lambda device: device == CPU))


def program_plan(options: EngineOptions, folder: Path) -> ProgramPlan:
    """The programs that `build` will need, in `folder`, which is made; the usual batch is `usual_batch`."""
    from exporter.aotinductor.program import ProgramPlan

    folder.mkdir()
    targets = devices(options)
    first = targets[0]  # the GPU, where there is one among them
    most = None if first == CPU else max(batch.max for batch in options.batches)
    padded = options.kernels == "auto" and len(targets) > 1
    return ProgramPlan(folder, usual_batch(options), most, options.kernels, first, padded)


def usual_batch(options: EngineOptions) -> int:
    """What a package is tuned for: the largest `opt`, because one program serves all batches and large ones take longest."""
    return max(batch.opt for batch in options.batches)


def build(kind: str, items: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages) -> Built:
    """One package for each tower and target, under ``engines/aotinductor/``.

    Args:
        kind: ``aotinductor``.
        items: towers and their programs.
        folder: of the bundle.
        options: of the user.
        stages: is told what goes on.

    Returns:
        The packages, and those that the compiler refused, with its words: one costs no other.
    """
    (folder / "engines" / KIND).mkdir(parents=True, exist_ok=True)
    packages = [_package(item, device, folder) for item in items for device in devices(options)]
    found: dict[Path, Engine] = {}
    left_out: list[LeftOut] = []
    for group in _groups(packages):
        with contextlib.ExitStack() as stack:
            waits = [stack.enter_context(compiling(package.job)) for package in group]
            for package, wait in zip(group, waits, strict=True):
                # Of packages that are made side by side, the first one's stage lasts until it is done, the next one's from there.
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
                    found[package.path] = _engine(package, folder, options, result)
    return Built(tuple(found[package.path] for package in packages if package.path in found), tuple(left_out))


@dataclass(frozen=True)
class _Package:
    """A package to be made.

    Attributes:
        item: the tower.
        device: ``cpu`` or ``sm90``.
        path: where to.
        packed: it takes packed captions.
        job: for the compiler.
    """

    item: TowerExport
    device: str
    path: Path
    packed: bool
    job: CompileJob


def _package(item: TowerExport, device: str, folder: Path) -> _Package:
    assert item.programs is not None  # the pipeline asks for them with `program_plan`
    packed = item.programs.packed is not None and (device != CPU or item.programs.padded is None)
    program = item.programs.packed if packed else item.programs.padded
    assert program is not None
    # The name tells a program that reads no manifest, such as engines/cpp's.
    name = f"{item.name}-packed-{device}.pt2" if packed else f"{item.name}-{device}.pt2"
    path = folder / "engines" / KIND / name
    own = cpu_isa()
    assert own is not None  # `check` saw it
    # A GPU's package computes next to nothing on the CPU: the smaller instruction set runs everywhere.
    isa = own if device == CPU else "avx2"
    job = CompileJob(
        program=str(program), package=str(path), cuda=device != CPU, isa=isa, inductor=inductor_options(device)
    )
    return _Package(item, device, path, packed, job)


def _groups(packages: Sequence[_Package]) -> list[list[_Package]]:
    """What is made side by side: packages for the CPU, for a compiler runs in one thread, if there are cores and memory for it.

    For a GPU kernels are timed while they are chosen, and must have the GPU for themselves.
    """
    own = [package for package in packages if package.device == CPU]
    need = sum(_MEMORY + _MEMORY_FACTOR * Path(package.job.program).stat().st_size for package in own)
    side_by_side = usable_cores() >= len(own) and need < available_memory()
    return [*([p] for p in packages if p.device != CPU), *([own] if side_by_side else [[p] for p in own])]


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
    """Options of the compiler, by their names in ``torch._inductor.config``.

    Args:
        device: ``cpu``, or a GPU's architecture such as ``sm90``.
        search: on a GPU, time several kernels for every matrix product and take the fastest (``max_autotune``).
    """
    # Precompiled headers, 300 MB, are kept by the compiler's path, which is another one each time.
    # The compiler notes that a dynamic size is not 1 where that is all the same to the code, and the check would then refuse 1.
    common: dict[str, bool | int | str] = {
        "aot_inductor.precompile_headers": False,
        "aot_inductor.check_lowerbound": False,
    }
    if device == CPU:
        # As many threads as the process has that loads it, not as this one has. Frozen weights are packed for oneDNN, whose matrix
        # products are those that ONNX Runtime's speed is reached with.
        return {**common, "cpp.dynamic_threads": True, "freezing": True}
    return {**common, "max_autotune": search}
