"""The measurements of `benchmarks.kernel_ops` in the table that `kernels.swap` reads."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

from benchmarks.kernel_timing.cases import KernelCase
from benchmarks.kernel_timing.measurement import Measured
from benchmarks.records.estimates import estimate
from benchmarks.records.machine import Machine
from kernels import choices


def is_chosen(case: KernelCase, dtype: torch.dtype, device: str) -> bool:
    """Whether the table has rows of a case on this GPU; on a CPU it has none."""
    return device == "cuda" and any(row.key == _key(case, dtype) for row in choices.read())


def _key(case: KernelCase, dtype: torch.dtype) -> tuple[str, str, str, str]:
    """`kernels.choices.Row.key` of a case on the GPU of this machine."""
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}", case.op, str(dtype).removeprefix("torch."), choices.shape_text(case.shape)


def keep_choice(
    case: KernelCase, dtype: torch.dtype, measurement: Measured, machine: Machine, run_commit: str, copy: Path | None
) -> None:
    """Put a case's times into the table.

    Args:
        case, dtype: the measured case.
        measurement: its times.
        machine: the GPU.
        run_commit: the code's commit.
        copy: file for a copy of the table; None: no copy.
    """
    arch, op, name, shape = _key(case, dtype)
    choices.merge(
        choices.Row(
            arch=arch,
            op=op,
            dtype=name,
            shape=shape,
            implementation=implementation,
            ms=1e3 * estimate(measurement.seconds[implementation]).value,
            machine=machine.name,
            commit=run_commit,
        )
        for implementation in ("native", *measurement.choices)
        if implementation in measurement.seconds
    )
    if copy is not None:
        draft = copy.with_suffix(".tmp")
        shutil.copyfile(choices.TABLE, draft)
        draft.replace(copy)
