"""The demo model with AOTInductor packages, built once for all test files and workers of a session."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from made_once import made_once, session_folder

from exporter.__main__ import main
from exporter.aotinductor.job import compiler


def aotinductor_bundle(factory: pytest.TempPathFactory) -> Path:
    """The demo model in float32 with packages for the CPU and ONNX Runtime, exported by the command line. Read only."""
    return _exported(factory, "aotinductor-demo", "--engine", "onnxruntime")


def packed_bundle(factory: pytest.TempPathFactory) -> Path:
    """The demo model's text tower in float32 as a package for the CPU that takes packed captions. Read only."""
    return _exported(factory, "packed-demo", "--kernels", "triton", "--towers", "text")


def _exported(factory: pytest.TempPathFactory, name: str, *more: str) -> Path:
    def make(out: Path) -> None:
        flags = ("--fp32", "--engine", "aotinductor", "--target", "cpu", *more)
        answer = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(answer):
            patch.setenv("CXX", str(quick_compiler(factory.mktemp("compiler"))))
            patch.setenv("TQDM_DISABLE", "1")
            # In this process, which has imported, or will, what takes a process of its own ten seconds.
            assert main(["demo", *flags, "--parity-samples", "16", "--json", "--out", str(out)]) == 0
        Path(f"{out}.json").write_text(answer.getvalue(), encoding="utf-8")

    return made_once(session_folder(factory), name, make)


def quick_compiler(folder: Path) -> Path:
    """g++ that does not optimize what surrounds a package's kernels, nor collects garbage there: two thirds of the time."""
    program = folder / "g++"
    keep = "--param ggc-min-expand=1000 --param ggc-min-heapsize=2000000"
    program.write_text(
        f'#!/bin/sh\ncase "$*" in *.wrapper.cpp*) exec {compiler()} "$@" {keep} -O0 -g0 ;; esac\nexec {compiler()} "$@"\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    return program
