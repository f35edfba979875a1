"""The demo model with AOTInductor packages, built once for all test files and workers of a session."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from made_once import made_once, session_folder

ROOT = Path(__file__).parents[1]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """``python -m`` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TQDM_DISABLE": "1"} | environment,
        check=False,
    )


def aotinductor_bundle(factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32 with packages for the CPU and ONNX Runtime, exported by the command line. Read only."""
    return _exported(factory, "aotinductor-demo", "--engine", "onnxruntime")


def packed_bundle(factory: pytest.TempPathFactory) -> Path:
    """The demo model's text tower in float32 as a package for the CPU that takes packed captions. Read only."""
    return _exported(factory, "packed-demo", "--kernels", "triton", "--towers", "text")


def _exported(factory: pytest.TempPathFactory, name: str, *more: str) -> Path:
    def make(out: Path) -> None:
        flags = ("--fp32", "--engine", "aotinductor", "--target", "cpu", *more)
        ran = run("exporter", "demo", *flags, "--parity-samples", "16", "--json", "--out", str(out))
        assert ran.returncode == 0, ran.stderr
        Path(f"{out}.json").write_text(ran.stdout, encoding="utf-8")

    return made_once(session_folder(factory), name, make)
