"""The needs of builds in C++: AOTInductor's compiler, and the programs and headers of the C++ library."""

from __future__ import annotations

import runpy
import shutil
from pathlib import Path

import msgspec

import engines


class CppFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Building in C++ on this machine.

    Attributes:
        compiler: the compiler for AOTInductor's packages, an absolute path; None: it is not there.
        compiler_problem: the reason why it cannot build packages, with the remedy; None: it can.
        cmake: absolute path of CMake; None: it is not there.
        library_problem: the reason why the C++ library cannot be built here, with the remedy; None: it can.
    """

    compiler: str | None
    compiler_problem: str | None
    cmake: str | None
    library_problem: str | None


def cpp_facts() -> CppFacts:
    """Look for the programs, and compile a line for each header that the C++ library needs."""
    from exporter.aotinductor.job import compiler, compiler_problem

    problem = compiler_problem()
    return CppFacts(
        compiler=shutil.which(compiler()),
        compiler_problem=None if problem is None else f"AOTInductor needs {problem}",
        cmake=shutil.which("cmake"),
        library_problem=_library_problem(),
    )


def _library_problem() -> str | None:
    # The C++ project's own program, which is in a clone and not in an installed package.
    program = Path(engines.__file__).parent / "cpp" / "tools" / "build.py"
    if not program.is_file():
        return "its source is not part of the installed package: clone the repository and run make cpp"
    missing = runpy.run_path(str(program))["missing_packages"]()
    return f"apt-get install {' '.join(missing)}" if missing else None
