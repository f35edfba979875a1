"""Facts about this machine: system, GPU, processor, cores, memory and disks. Nothing is imported or written for them."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
import tempfile
from pathlib import Path

import msgspec

from engines.device.gpu import find_gpu, gpu_missing
from engines.process.cores import usable_cores
from exporter.memory import available_memory, total_memory

# Instructions that decide the speed of a precision, by their names in /proc/cpuinfo: on x86-64 and, after them, on ARM.
INSTRUCTIONS = {
    "float32": ("avx2", "avx512f", "sve"),
    "int8": ("avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"),
    "bf16": ("avx512_bf16", "amx_bf16", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "asimdhp"),
}


class Disk(msgspec.Struct, frozen=True, kw_only=True):
    """A folder's disk.

    Attributes:
        folder: absolute path.
        free_bytes: bytes that this user can still write there; 0 where the system does not report them.
        writable: whether this user may write there.
    """

    folder: str
    free_bytes: int
    writable: bool


class GpuFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The first NVIDIA GPU.

    Attributes:
        name: product name.
        target: architecture, such as ``sm90``.
        driver: the driver's version, such as ``570.86.15``; None where the system does not report it.
        driver_cuda: the newest CUDA version that the driver supports, such as ``13.0``.
    """

    name: str
    target: str
    driver: str | None
    driver_cuda: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """This machine.

    Attributes:
        system: operating system, architecture, and Python's version.
        gpu: the GPU; None: there is none that can be used.
        no_gpu: the reason why there is no GPU.
        cpu: the processor's model.
        instructions: precision to the instructions for it that the processor has (`INSTRUCTIONS`).
        cores: cores that this process may use, within affinity and CPU quota.
        all_cores: cores of the machine.
        memory_bytes: memory of the machine, or the container's limit if that is less; 0: not known.
        available_bytes: memory that this process can still take without swapping; 0: not known.
        output: the disk of the working directory, where bundles are written without ``--out``.
        temporary: the disk for temporary files, on which packages are compiled.
    """

    system: str
    gpu: GpuFacts | None
    no_gpu: str | None
    cpu: str
    instructions: dict[str, tuple[str, ...]]
    cores: int
    all_cores: int
    memory_bytes: int
    available_bytes: int
    output: Disk
    temporary: Disk


def machine_facts(output: Path | None = None) -> Machine:
    """Read the facts about this machine.

    Args:
        output: the folder to which a bundle would be written; None is the working directory. Where it does not exist, the nearest
            folder above it counts.
    """
    gpu = None if gpu_missing() is not None else find_gpu()
    model, flags = processor()
    python = ".".join(map(str, sys.version_info[:3]))
    return Machine(
        system=f"{platform.system()} {platform.release()}, {platform.machine()}, Python {python}",
        gpu=None
        if gpu is None
        else GpuFacts(
            name=gpu.name,
            target=gpu.target,
            driver=driver_version(),
            driver_cuda=f"{gpu.driver[0]}.{gpu.driver[1]}",
        ),
        no_gpu=None if gpu is not None else gpu_missing() or "the driver does not describe its GPU",
        cpu=model,
        instructions={use: tuple(n for n in names if n in flags) for use, names in INSTRUCTIONS.items()},
        cores=usable_cores(),
        all_cores=os.cpu_count() or 1,
        memory_bytes=total_memory(),
        available_bytes=available_memory(),
        output=disk(output or Path.cwd()),
        temporary=disk(Path(tempfile.gettempdir())),
    )


def driver_version(file: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The version of NVIDIA's driver.

    Args:
        file: the driver's description of itself, whose first line is ``NVRM version: NVIDIA UNIX … 570.86.15  Release Build …``.
    """
    try:
        match = re.search(
            r"^NVRM version:.*?\s(\d+(?:\.\d+)+)\s", file.read_text(encoding="utf-8", errors="replace"), re.M
        )
    except OSError:
        return None
    return None if match is None else match[1]


def processor(cpuinfo: Path = Path("/proc/cpuinfo")) -> tuple[str, frozenset[str]]:
    """The processor's model and its instructions.

    Args:
        cpuinfo: Linux' description of the processor: ``flags`` on x86-64, ``Features`` on ARM.
    """
    fields: dict[str, str] = {}
    try:
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            name, separator, value = line.partition(":")
            if separator:
                fields.setdefault(name.strip(), value.strip())
    except OSError:
        pass
    model = fields.get("model name") or platform.processor() or platform.machine() or "unknown"
    return model, frozenset((fields.get("flags") or fields.get("Features") or "").split())


def disk(folder: Path) -> Disk:
    """The disk of a folder, or of the nearest folder above it that exists."""
    path = Path(os.path.abspath(folder))
    while not path.is_dir() and path != path.parent:
        path = path.parent
    try:
        free = shutil.disk_usage(path).free
    except OSError:
        free = 0
    return Disk(folder=str(path), free_bytes=free, writable=os.access(path, os.W_OK | os.X_OK))
