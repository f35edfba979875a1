"""Compilation of kernels for a GPU that is not there, and the compiler's figures: registers, spills, shared memory.

A module ``kernels.triton_*`` with a launcher has a function ``static_cases() -> list[StaticCase]``, which returns the variants that
the launcher takes for the shapes that matter, so that a test and a table can cover all of them.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


def modules() -> list[str]:
    """Names of the modules ``triton_*`` that have `static_cases`, without importing Triton; the others are parts of kernels."""
    files = sorted(Path(__file__).parent.glob("triton_*.py"))
    return [file.stem for file in files if "\ndef static_cases(" in file.read_text(encoding="utf-8")]


@dataclass(frozen=True)
class StaticCase:
    """One specialization of a jitted kernel.

    Attributes:
        label: the variant's purpose, such as "L=257 D=64 fp16".
        kernel: the jitted function.
        signature: name to type ("*fp16", "i32", "fp32") of every argument that is no constant.
        constants: name to value of every `constexpr` argument; None for a pointer that is not there.
        num_warps, num_stages: the launch's number of warps and of stages of loads.
        divisible: names of arguments that are multiples of 16 (aligned pointers, strides); a real launch detects them by itself.
        archs: architectures that have the kernel at all.
        by_arch: the case for an architecture on which a launch takes other constants.
    """

    label: str
    kernel: Any
    signature: Mapping[str, str]
    constants: Mapping[str, Any]
    num_warps: int
    num_stages: int
    divisible: tuple[str, ...] = ()
    archs: tuple[int, ...] = (80, 90, 100)
    by_arch: Mapping[int, StaticCase] = field(default_factory=dict)


@dataclass(frozen=True)
class StaticReport:
    """The resources that one case needs on one architecture.

    Attributes:
        registers: number of registers per thread.
        spills: bytes of local memory per thread.
        shared_bytes: bytes of shared memory per block.
        occupancy: fraction of a multiprocessor's warps that can be resident; 0 where a block does not fit at all.
    """

    registers: int
    spills: int
    shared_bytes: int
    occupancy: float


@dataclass(frozen=True)
class _Multiprocessor:
    """Limits of a multiprocessor, from CUDA's programming guide, table "Technical specifications per compute capability"."""

    shared: int  # bytes
    shared_per_block: int  # bytes
    warps: int = 64
    blocks: int = 32
    registers: int = 65536


_MULTIPROCESSORS = {
    80: _Multiprocessor(164 * 1024, 163 * 1024),
    86: _Multiprocessor(100 * 1024, 99 * 1024, warps=48, blocks=16),
    89: _Multiprocessor(100 * 1024, 99 * 1024, warps=48, blocks=24),
    90: _Multiprocessor(228 * 1024, 227 * 1024),
    100: _Multiprocessor(228 * 1024, 227 * 1024),
    120: _Multiprocessor(100 * 1024, 99 * 1024, warps=48, blocks=24),
}


def occupancy(arch: int, registers: int, shared_bytes: int, num_warps: int) -> float:
    """The fraction of a multiprocessor's warps on `arch` (90 is sm_90) that these blocks can fill."""
    limits = _MULTIPROCESSORS.get(arch)
    if limits is None:
        raise ValueError(f"arch {arch} is not one of {', '.join(map(str, _MULTIPROCESSORS))}")
    if shared_bytes > limits.shared_per_block:
        return 0.0
    per_warp = -(-registers * 32 // 256) * 256
    by_registers = limits.registers // (per_warp * num_warps)
    by_shared = limits.shared // (shared_bytes + 1024)  # the driver keeps 1 KiB of each block
    blocks = min(by_registers, by_shared, limits.warps // num_warps, limits.blocks)
    return blocks * num_warps / limits.warps


def compile_static(case: StaticCase, arch: int) -> StaticReport:
    """Compile `case` for compute capability `arch` (80, 90, 100), without a GPU.

    Raises:
        ValueError: the architecture does not have the case, or the case's arguments are not the kernel's.
        RuntimeError: the kernel was defined in Triton's interpreter.
        Exception: any error of the compiler.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import JITFunction

    if arch not in case.archs:
        raise ValueError(
            f"{case.label} is a kernel for {', '.join(f'sm_{known}' for known in case.archs)}, not for sm_{arch}"
        )
    case = case.by_arch.get(arch, case)
    if not isinstance(case.kernel, JITFunction):
        raise RuntimeError(
            f"{case.label}: its kernel is no JITFunction; unset TRITON_INTERPRET before importing the kernel's module"
        )
    names = case.kernel.arg_names
    missing = set(names) ^ (set(case.signature) | set(case.constants))
    if missing:
        raise ValueError(f"{case.label}: arguments {sorted(missing)} are not those of the kernel, which takes {names}")
    signature = {name: case.signature.get(name, "constexpr") for name in names}
    constants = {(names.index(name),): value for name, value in case.constants.items()}
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in case.divisible}
    source = ASTSource(case.kernel, signature, constants, attributes)
    options = {"num_warps": case.num_warps, "num_stages": case.num_stages, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    registers, spills = _resources(compiled.asm["cubin"])
    shared = int(compiled.metadata.shared)
    return StaticReport(registers, spills, shared, occupancy(arch, registers, shared, case.num_warps))


def _resources(cubin: bytes) -> tuple[int, int]:
    """Registers and bytes of stack per thread that `cuobjdump` reads from a compiled kernel."""
    from triton import knobs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [os.fspath(knobs.nvidia.cuobjdump.path), "--dump-resource-usage", os.fspath(path)]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usages = re.findall(r"REG:(\d+)\s+STACK:(\d+)", output)
    if not usages:
        raise RuntimeError(f"cuobjdump does not say what the kernel needs: {output.strip()!r}")
    return max(int(registers) for registers, _ in usages), max(int(stack) for _, stack in usages)
