"""Packages from pip's index in folders of their own, beside the environment that the tests run in."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

_LAST_LINES = 5  # of pip's, which say what went wrong


class NotInstalledError(Exception):
    """pip cannot install a package; the message is in pip's words."""


def install(requirements: Sequence[str], folder: Path) -> None:
    """Install packages without what they require, into `folder`.

    Raises:
        NotInstalledError: there is no network, no such version, or none for this Python and machine.
    """
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:", "--target", str(folder)]
    ran = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, *requirements], capture_output=True, text=True, check=False
    )
    if ran.returncode:
        words = " ".join(" ".join(ran.stderr.splitlines()[-_LAST_LINES:]).split())
        raise NotInstalledError(f"pip cannot install {' '.join(requirements)}: {words}")


def provider_library(folder: Path) -> Path:
    """ONNX Runtime's CUDA provider in a folder of `install`."""
    return folder / "onnxruntime" / "capi" / "libonnxruntime_providers_cuda.so"


def cuda_headers(cuda: int, folder: Path) -> Path:
    """NVIDIA's headers of a major version of CUDA (13 or newer), installed into `folder`; the folder to include from.

    Raises:
        NotInstalledError: as `install`.
    """
    install([f"nvidia-cuda-runtime=={cuda}.*", f"nvidia-cuda-crt=={cuda}.*"], folder)
    return folder / "nvidia" / f"cu{cuda}" / "include"
