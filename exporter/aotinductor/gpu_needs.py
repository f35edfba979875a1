"""The needs of a GPU's package besides a C++ compiler: a PyTorch for GPU and driver, CUDA's headers, the driver's library.

No part of it is compiled by nvcc, because Triton has its own assembler. The generated C++ includes CUDA's headers, which come with
the toolkit or with NVIDIA's wheels, and is linked with the driver's library.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from engines.device.gpu import Gpu

# The headers that PyTorch's headers for generated code include.
_HEADERS = ("cuda.h", "cuda_runtime.h", "cuda_bf16.h", "cuda_fp16.h", "cuda_fp8.h")
_DRIVER = "libcuda.so.1"
_ARCH = re.compile(r"(sm|compute)_(\d+)(\d)[af]?")


def gpu_problem(gpu: Gpu) -> str | None:
    """Return the missing requirement of packages for `gpu`, as a noun with its remedy; None if nothing is missing."""
    import torch

    built = torch.version.cuda
    if built is None:
        return f"a PyTorch with CUDA, and {torch.__version__} has none: install a build for CUDA {gpu.driver[0]}"
    major = int(built.split(".")[0])
    if gpu.driver[0] < major:
        return (
            f"a driver for CUDA {built}, which this PyTorch was built for, and the one of {gpu.name} knows CUDA up to "
            f"{gpu.driver[0]}.{gpu.driver[1]}: update the driver, or install a PyTorch for CUDA {gpu.driver[0]}"
        )
    flags = torch._C._cuda_getArchFlags() or ""
    if not serves(flags.split(), gpu.capability):
        return (
            f"a PyTorch for {gpu.target}, and {torch.__version__} was built for {flags}: install a build that knows {gpu.name}, "
            "or pass --engine onnxruntime"
        )
    if cuda_home() is None:
        return (
            f"CUDA's headers ({', '.join(_HEADERS)}), and no folder with them was found: install the CUDA toolkit {built}, or set "
            "CUDA_HOME to where it is"
        )
    return None


def serves(archs: list[str], capability: tuple[int, int]) -> bool:
    """Whether a build of PyTorch runs on a GPU.

    Args:
        archs: the architectures of the build: ``sm_90`` is machine code, ``compute_90`` is code that the driver compiles for later
            GPUs.
        capability: the GPU's compute capability, (major, minor).
    """
    for arch in archs:
        match = _ARCH.fullmatch(arch)
        if match is None:
            continue
        kind, known = match.group(1), (int(match.group(2)), int(match.group(3)))
        if known <= capability and (kind == "compute" or known[0] == capability[0]):
            return True
    return False


def cuda_home() -> Path | None:
    """The folder whose ``include`` has CUDA's headers: the user's variable, the toolkit's usual places, NVIDIA's wheels."""
    return next((home for home in _homes() if all((home / "include" / name).is_file() for name in _HEADERS)), None)


def _homes() -> Iterator[Path]:
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            yield Path(os.environ[variable])
    compiler = shutil.which("nvcc")
    if compiler is not None:
        # The resolved path, too, because `nvcc` may be a link or script in a folder for programs, where PyTorch's search would end.
        yield from (Path(compiler).parents[1], Path(compiler).resolve().parents[1])
    yield Path("/usr/local/cuda")
    yield from sorted(Path("/usr/local").glob("cuda-*"), reverse=True)
    yield from sorted(Path(sysconfig.get_paths()["purelib"]).glob("nvidia/cu*"), reverse=True)


def build_environment(folder: Path) -> dict[str, str]:
    """Make the environment variables with which compiler and linker find CUDA.

    Args:
        folder: the folder of the build; it gets a link to the driver's library, because a machine without the toolkit has the
            library only under the name that programs load, and not under the name that linkers search.
    """
    variables: dict[str, str] = {}
    home = cuda_home()
    if home is not None:
        variables["CUDA_HOME"] = str(home)
    library = library_file(_DRIVER)
    if library is not None:
        links = folder / "lib"
        links.mkdir()
        (links / "libcuda.so").symlink_to(library)
        variables["LIBRARY_PATH"] = os.pathsep.join(filter(None, [os.environ.get("LIBRARY_PATH", ""), str(links)]))
    return variables


def library_file(name: str) -> Path | None:
    """The file that the loader opens for a shared library such as ``libcuda.so.1``; None if there is none."""
    with contextlib.suppress(OSError):
        ctypes.CDLL(name)
        stem = name.split(".so")[0]
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.is_absolute() and re.match(rf"{re.escape(stem)}[.-]", path.name):
                return path
    return None
