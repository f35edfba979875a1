"""Makes the pretended CUDA libraries that one library of ONNX Runtime needs, with the system's C++ compiler."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
DRIVER, RUNTIME, CUDNN = "libcuda.so.1", "libcudart", "libcudnn.so.9"
# By the middle of a library's name; what is not named here is a mathematical one.
_SOURCES = {"cuda": ("driver.cpp", "memory.cpp", "streams.cpp", "log.cpp"), "cudart": ("cudart.cpp",)}
_TOOLS = ("g++", "nm", "readelf")
_OURS = re.compile(r"(?:cu|nv|__cuda)\w+")  # names of CUDA's functions
_DRIVER_CALL = re.compile(r"cu[A-Z]")
_CUDNN_CALL = re.compile(rb"cudnn[A-Z]\w+")
_FIRST_LINES = 20  # of the compiler's


class LibraryError(Exception):
    """The libraries cannot be made; the message says why."""


@dataclass(frozen=True)
class Need:
    """What a library needs of CUDA's.

    Attributes:
        libraries: file names, such as ``libcudart.so.13``.
        functions: library -> names of its functions.
        versioned: libraries whose functions carry the library's name as their version.
    """

    libraries: tuple[str, ...]
    functions: dict[str, tuple[str, ...]]
    versioned: frozenset[str]

    @property
    def cuda(self) -> int:
        """The major version of CUDA that it was built for."""
        runtime = next(name for name in self.libraries if name.startswith(RUNTIME))
        return int(runtime.rpartition(".")[2])


def missing_tool() -> str | None:
    """The tool that is not installed and has to be; None if all are."""
    return next((tool for tool in _TOOLS if shutil.which(tool) is None), None)


def read_need(library: Path) -> Need:
    """What `library` names and leaves undefined.

    A function's library is the one in its version (``cudaMalloc@libcudart.so.13``); those without a version are the driver's.
    cuDNN is not linked: the library looks its functions up by their names, which stand among its constants.

    Raises:
        LibraryError: it cannot be read.
    """
    needed = re.findall(r"\(NEEDED\).*\[(lib(?:cu|nv)[^\]]+)\]", _run("readelf", "-d", str(library)))
    functions: dict[str, list[str]] = {name: [] for name in needed}
    versioned = set()
    for line in _run("nm", "-D", "--undefined-only", str(library)).splitlines():
        name, _, version = line.split()[-1].partition("@")
        if version in functions:
            functions[version].append(name)
            versioned.add(version)
        elif _DRIVER_CALL.match(name) and not name.startswith(("cublas", "cudnn")):
            functions.setdefault(DRIVER, []).append(name)
        elif _OURS.fullmatch(name):
            raise LibraryError(f"{library.name} needs {name}, and does not say of which library")
    functions[CUDNN] = [name.decode() for name in sorted(set(_CUDNN_CALL.findall(library.read_bytes())))]
    return Need((*needed, CUDNN), {name: tuple(found) for name, found in functions.items()}, frozenset(versioned))


def make_libraries(need: Need, headers: Path, folder: Path) -> None:
    """Compile all libraries of `need` into `folder`.

    Args:
        need: of the provider's library.
        headers: folder of NVIDIA's ``cuda_runtime_api.h`` and ``cuda.h``, of the same major version.
        folder: is made.

    Raises:
        LibraryError: the compiler refuses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _make(DRIVER, need, headers, folder)  # first, for the others are linked with it
    for library in need.libraries:
        if library != DRIVER:
            _make(library, need, headers, folder)


def _make(library: str, need: Need, headers: Path, folder: Path) -> None:
    name = library.removeprefix("lib").partition(".so")[0]
    compiler = ["g++", "-std=c++17", "-O1", "-fPIC", f"-I{HERE}", f"-isystem{headers}"]
    objects, there = [], set()
    for source in _SOURCES.get(name, ("math_libraries.cpp",)):
        written = folder / f"{name}_{source}.o"
        _run(*compiler, f"-DLIBRARY_{name}", "-c", str(HERE / source), "-o", str(written))
        there |= {line.split()[-1] for line in _run("nm", "--defined-only", str(written)).splitlines()}
        objects.append(str(written))
    others = [function for function in need.functions.get(library, ()) if function not in there]
    rest = folder / f"{name}_others.cpp"
    rest.write_text(_others(others), encoding="utf-8")
    flags = ["-shared", f"-Wl,-soname,{library}", "-o", str(folder / library)]
    if library in need.versioned:
        script = folder / f"{name}.map"
        script.write_text(f"{library} {{ global: *; }};\n", encoding="utf-8")
        flags.append(f"-Wl,--version-script={script}")
    linked = [] if library == DRIVER else [str(folder / DRIVER)]
    _run(*compiler, *objects, str(rest), *flags, *linked)


def _others(functions: Iterable[str]) -> str:
    """C++ with the functions that have nothing to do: they are noted, and answer with success, a new handle or a text.

    Their first argument is noted, too: of cuBLAS and cuDNN it is the handle. Of a function without arguments it means nothing.
    """
    lines = ['#include "device.h"', 'extern "C" {']
    for name in functions:
        if "Create" in name:
            body = f'int {name}(void** handle) {{ *handle = pretended::create("{name}", "handle"); return 0; }}'
        elif name.endswith(("StatusName", "StatusString", "ErrorString")):
            body = f'const char* {name}(int) {{ return "{name}"; }}'
        else:
            body = f'int {name}(void* first) {{ pretended::note("{name} first=%p", first); return 0; }}'
        lines.append(body)
    return "\n".join([*lines, "}", ""])


def _run(*command: str) -> str:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode:
        words = "\n".join(ran.stderr.splitlines()[:_FIRST_LINES])
        raise LibraryError(f"{' '.join(command)}\n{words}")
    return ran.stdout
