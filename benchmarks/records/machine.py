"""The machine of a figure: the processor or GPU, its clock, threads and the versions of the libraries that computed."""

from __future__ import annotations

import datetime
import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks.records.csv_file import commit
from benchmarks.records.rows import Row


@dataclass(frozen=True)
class Machine:
    """One processor or GPU.

    Attributes:
        device: ``cpu`` or ``cuda``.
        name: the name for people: "AMD EPYC, 2 cores".
        slug: the name for folders: "amd-epyc-2-cores".
    """

    device: str
    name: str

    @property
    def slug(self) -> str:
        """The name in lower case, words joined by hyphens."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")


def this_machine(device: str = "cpu") -> Machine:
    """The processor, or with ``cuda`` the first GPU.

    Raises:
        RuntimeError: there is no GPU that answers.
    """
    if device == "cpu":
        return Machine("cpu", f"{_processor()}, {usable_cores()} cores")
    name = nvidia_smi("name")
    if name is None:
        raise RuntimeError("no NVIDIA GPU answers: nvidia-smi is missing or fails; measure with --device cpu")
    return Machine("cuda", name)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def clock_mhz(device: str) -> int:
    """Clock of the processor (mean over its cores) or of the GPU's multiprocessors now; 0 where it cannot be read."""
    if device == "cuda":
        clock = nvidia_smi("clocks.sm")
        return int(clock.split()[0]) if clock else 0
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return 0
    clocks = [float(value) for value in re.findall(r"^cpu MHz\s*:\s*([\d.]+)", text, re.MULTILINE)]
    return round(sum(clocks) / len(clocks)) if clocks else 0


def versions(packages: Sequence[str]) -> str:
    """ "torch 2.15.0 onnxruntime 1.32.0", of those that are installed."""
    parts = []
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return " ".join(parts)


def stamp(rows: Sequence[Row], machine: Machine, **common: object) -> list[Row]:
    """Rows with machine, commit and date filled in, and the other columns that all of them share.

    Args:
        rows: rows that were measured here and now.
        machine: the result of `this_machine`.
        common: columns and values that all rows share.
    """
    import dataclasses

    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
    shared = {"machine": machine.name, "commit": commit(), "date": now} | common
    return [dataclasses.replace(row, **shared) for row in rows]  # type: ignore[arg-type]


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def gpu_problem() -> str | None:
    """Why PyTorch cannot compute on the GPU of this machine, as a sentence with the remedy; None if it can."""
    try:
        import torch
    except ModuleNotFoundError:
        return f"PyTorch is not installed in {sys.executable}: run this with a Python that has its CUDA build"
    except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a broken library raises
        from engines.process.optional import error_words

        return f"PyTorch is installed in {sys.executable} and cannot be imported: {error_words(error)}"
    if torch.version.cuda is None:
        return f"the installed PyTorch {torch.__version__} has no CUDA: install its CUDA build"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    except (RuntimeError, AssertionError) as error:  # no GPU, or a driver that is older than this PyTorch needs
        message = " ".join(str(error).split())[:300].rstrip(". ")
        return f"PyTorch {torch.__version__} cannot use the GPU: {message}"
    return None


def nvidia_smi(field: str) -> str | None:
    """A field of nvidia-smi's ``--query-gpu`` for the first GPU, such as ``name``; None where it fails."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader", "-i", "0"]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return None
    return ran.stdout.strip() or None
