"""``python -m pretended_gpu.worker RESULT`` with a `Job` as JSON on its input: packages for a card that is not there."""

from __future__ import annotations

import contextlib
import resource
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from engines.manifest import Build
from exporter.child_process import serve
from pretended_gpu.cases import Case, Programs


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """What to make.

    Attributes:
        arch: ``sm80`` or ``sm90``.
        cases: one package each.
        folder: for programs and packages; it is there.
        link: run the C++ compiler and the linker, too.
    """

    arch: str
    cases: tuple[Case, ...]
    folder: str
    link: bool = False


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case.

    Attributes:
        case: which.
        problem: why there is no package, in the exception's words; None if there is one.
        package: the file.
        swapped: kernel -> how many modules of the program call it.
        build: of the exporter's worker.
        scratch: bytes of global memory that one program of a kernel asks for, by the kernel's name in the generated code.
        seconds: of the processor, this process and its children.
    """

    case: Case
    problem: str | None
    package: str
    swapped: dict[str, int]
    build: Build | None
    scratch: dict[str, int]
    seconds: float


class Findings(msgspec.Struct, frozen=True, kw_only=True):
    """What came of all cases, in their order."""

    torch: str
    made: tuple[Made, ...]


def make_all(job: Job) -> Findings:
    """Pretend, then make every case's package; a case that fails does not end the others."""
    import torch

    import kernels.blocks  # noqa: F401  (registers the ops)
    from pretended_gpu.device import CARDS, pretend
    from pretended_gpu.inductor import pretend_compiling

    torch.set_num_threads(1)
    pretend(CARDS[job.arch])
    pretend_compiling(job.link)
    # Programs hold the weights, hundreds of megabytes that nobody asks for once there are packages.
    with tempfile.TemporaryDirectory(dir=job.folder) as folder:
        programs = Programs(Path(folder))
        return Findings(torch=str(torch.__version__), made=tuple(_make(case, job, programs) for case in job.cases))


def _make(case: Case, job: Job, programs: Programs) -> Made:
    from exporter.aotinductor.job import CompileJob
    from exporter.aotinductor.worker import compile_package
    from exporter.builders.aotinductor import inductor_options
    from pretended_gpu.inductor import OPTIONS, compiled_kernels

    start = _seconds()
    package = Path(job.folder) / f"{case.name}.pt2"
    swapped: dict[str, int] = {}
    build: Build | None = None
    problem: str | None = None
    try:
        program = programs.make(case, job.arch)
        swapped = program.swapped
        options = {**inductor_options(job.arch, search=False), **OPTIONS}
        compile_job = CompileJob(program=program.path, package=str(package), cuda=True, isa="avx2", inductor=options)
        with _as_if(case):
            build = compile_package(compile_job).build
    except Exception as error:  # noqa: BLE001  (a test says which case it was)
        problem = f"{type(error).__name__}: {error}"
    scratch = {name: int(found.get("global_scratch") or 0) for name, found in compiled_kernels()}
    return Made(
        case=case,
        problem=problem,
        package=str(package),
        swapped=swapped,
        build=build,
        scratch=scratch,
        seconds=round(_seconds() - start, 2),
    )


@contextlib.contextmanager
def _as_if(case: Case) -> Iterator[None]:
    """Programs move to the case's device, if it names one."""
    import torch.export.passes as passes

    move = passes.move_to_device_pass
    if case.device is not None:
        passes.move_to_device_pass = lambda program, _: move(program, case.device)
    try:
        yield
    finally:
        passes.move_to_device_pass = move


def _seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


if __name__ == "__main__":
    sys.exit(serve(Job, make_all))
