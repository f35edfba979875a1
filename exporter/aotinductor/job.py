"""The job of compiling one package in a separate process: `worker` runs it, `compiling` starts it and words its failures."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from engines.device.gpu import find_gpu
from engines.manifest import Build
from exporter.aotinductor.gpu_needs import build_environment, gpu_problem
from exporter.child_process import Child, ChildFailedError
from exporter.errors import ExportError

WORKER = "exporter.aotinductor.worker"

# The compiler's flags for each instruction set. Further extensions (VNNI, AMX, bfloat16) are off, because they differ between
# processors of the same level and would bind a package to the processor model that compiled it.
_FLAGS = {
    "avx2": "-march=x86-64-v3 -mno-avx512f",
    "avx512": "-march=x86-64-v4 -mno-avx512vnni -mno-avx512bf16 -mno-amx-tile",
}
_ERROR_LINE = re.compile(r"^(?:[\w.]+\.)?(\w*(?:Error|Exception)): (.+)$")
_COMPILER_LINE = re.compile(r"^\S+:\d+:\d+: (?:fatal )?error: (.+)$")
_LONGEST = 400


class CompileJob(msgspec.Struct, frozen=True, kw_only=True):
    """The job that the worker reads.

    Attributes:
        program: the path of the exported program.
        package: the path of the ``.pt2`` to write.
        cuda: whether the package is for this machine's GPU; else it is for the CPU.
        isa: the instruction set that the package may use on the CPU: ``avx2`` or ``avx512``.
        inductor: the compiler's options, by their names in ``torch._inductor.config``.
    """

    program: str
    package: str
    cuda: bool
    isa: str
    inductor: dict[str, bool | int | str]


class CompileResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result that the worker writes."""

    version: str  # the version of torch
    build: Build


def compiler() -> str:
    """The C++ compiler: ``$CXX``, or g++."""
    return os.environ.get("CXX") or "g++"


def compiler_problem() -> str | None:
    """Return the reason why there is no compiler that can build packages; None if there is one."""
    name = compiler()
    path = shutil.which(name)
    if path is None:
        return f"a C++ compiler, and {name} is not there: apt-get install g++, or name another one in CXX"
    tried = subprocess.run(
        [path, "-march=x86-64-v3", "-E", "-x", "c++", os.devnull], capture_output=True, timeout=60, check=False
    )
    if tried.returncode:
        return f"a C++ compiler that knows x86-64-v3, and {name} is older: install GCC 11 or newer, or name another one in CXX"
    return None


@contextlib.contextmanager
def compiling(job: CompileJob) -> Iterator[Callable[[], CompileResult]]:
    """Compile one package while the context is open; a compilation that is not finished ends with it.

    Yields:
        A function that waits for the result. It raises `ExportError` if the compiler refused the program, ran out of memory or
        died; the message quotes the compiler.

    Raises:
        ExportError: a requirement of a GPU's package is missing.
    """
    gpu = find_gpu() if job.cuda else None
    problem = None if gpu is None else gpu_problem(gpu)
    if problem is not None:
        raise ExportError(f"engine aotinductor needs {problem}")
    with tempfile.TemporaryDirectory(prefix="openclip-engines-inductor-") as folder:
        # Inductor compiles for the processor on which it runs, and tests with the compiler which instructions that has. A compiler
        # limited to `job.isa` therefore limits Inductor's plan to it, with any version of torch.
        cxx = Path(folder) / "bin" / Path(compiler()).name
        cxx.parent.mkdir()
        cxx.write_text(f'#!/bin/sh\nexec "{shutil.which(compiler())}" "$@" {_FLAGS[job.isa]}\n', encoding="utf-8")
        cxx.chmod(0o755)
        # Inductor's caches keep every package's weights: they are deleted when the package is made.
        environment = {"CXX": str(cxx), "TORCHINDUCTOR_CACHE_DIR": str(Path(folder) / "cache"), "TMPDIR": folder}
        if job.cuda:
            environment |= build_environment(Path(folder))
        with Child(WORKER, job, CompileResult, environment) as child:

            def wait() -> CompileResult:
                try:
                    return child.wait()
                except ChildFailedError as error:
                    raise ExportError(_failure(job, error)) from error

            yield wait


def run_job(job: CompileJob) -> CompileResult:
    """Compile one package and wait for the result.

    Raises:
        ExportError: the compilation failed, or a requirement is missing; see `compiling`.
    """
    with compiling(job) as wait:
        return wait()


def _failure(job: CompileJob, error: ChildFailedError) -> str:
    what = f"aotinductor cannot compile {Path(job.package).stem}"
    if error.killed:
        return f"{what}: the system killed the compiler, most likely for want of memory; free some, or export one tower at a time"
    words = error.last_line
    for line in error.output.splitlines():
        match = _COMPILER_LINE.match(line) or _ERROR_LINE.match(line)
        if match:
            words = match.group(match.lastindex or 0)
            if match.re is _COMPILER_LINE:
                break
    if len(words) > _LONGEST:
        words = words[: _LONGEST - 2] + " …"
    return f"{what}{error.died}: {words}"
