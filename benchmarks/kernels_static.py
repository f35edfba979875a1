"""Resources of every Triton kernel on GPUs that are not here: ``python -m benchmarks.kernels_static``.

Compiles each static case (`kernels.static`) for each architecture and merges a row into ``benchmarks/results/kernels_static.csv``:
registers and spills per thread, shared memory per block, and the occupancy that follows. No GPU is needed, and none helps.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records.csv_file import commit, read_rows
from benchmarks.records.results import RESULTS
from benchmarks.records.table_files import KERNELS_STATIC

if TYPE_CHECKING:
    from kernels.static import StaticCase

ARCHITECTURES = (80, 90, 100)
_FLOATS = ("*fp16", "*bf16", "*fp32")


def all_cases(modules: Sequence[str]) -> list[tuple[str, StaticCase]]:
    """The static cases of these modules of `kernels`, each with its kernel's name."""
    cases = []
    for module in modules:
        for case in import_module(f"kernels.{module}").static_cases():
            cases.append((case.kernel.fn.__name__.strip("_").removesuffix("_kernel"), case))
    return cases


def dtype_of(case: StaticCase) -> str:
    """The type that the kernel reads and writes: that of its first pointer to floating point numbers."""
    return next(kind[1:] for kind in case.signature.values() if kind in _FLOATS)


def measure(cases: Sequence[tuple[str, StaticCase]], architectures: Sequence[int]) -> Iterator[dict[str, Any]]:
    """A row of the file for each case and architecture, as soon as it is compiled."""
    import triton

    from kernels.static import compile_static

    at = commit()
    for kernel, case in cases:
        for arch in (arch for arch in architectures if arch in case.archs):
            report = compile_static(case, arch)
            yield {
                "kernel": kernel,
                "case": case.label,
                "arch": f"sm_{arch}",
                "dtype": dtype_of(case),
                "registers": report.registers,
                "spills": report.spills,
                "shared_bytes": report.shared_bytes,
                "occupancy": f"{report.occupancy:.2f}",
                "triton": triton.__version__,
                "commit": at,
            }


def drop_stale(path: Path, rows: Sequence[dict[str, Any]], kernels: set[str] | None) -> None:
    """Remove rows of these kernels, of all if None, that were not measured this time: their cases are no longer there."""
    fresh = {tuple(str(row[name]) for name in KERNELS_STATIC.key) for row in rows}
    remaining_rows = [
        row
        for row in read_rows(path)
        if tuple(row[name] for name in KERNELS_STATIC.key) in fresh
        or (kernels is not None and row["kernel"] not in kernels)
    ]
    path.unlink(missing_ok=True)
    KERNELS_STATIC.upsert(path, remaining_rows)


def main(argv: Sequence[str] | None = None) -> int:
    """Compile the cases, keep their rows, and name those that spill; 1 if one does."""
    from kernels.static import modules

    ops = [name.removeprefix("triton_") for name in modules()]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels_static", description=__doc__.splitlines()[0])
    parser.add_argument("--op", choices=ops, action="append", help="only this module's kernels; may be repeated")
    parser.add_argument("--arch", type=int, choices=ARCHITECTURES, action="append", help="only this compute capability")
    parser.add_argument(
        "--out", type=Path, default=RESULTS / KERNELS_STATIC.name, help="the CSV file (default %(default)s)"
    )
    args = parser.parse_args(argv)
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("error: TRITON_INTERPRET=1 leaves nothing to compile; unset it", file=sys.stderr)
        return 1
    try:
        cases = all_cases([f"triton_{op}" for op in args.op or ops])
    except ModuleNotFoundError as error:
        if error.name != "triton":
            raise
        print("error: Triton is not installed; it comes with PyTorch for CUDA", file=sys.stderr)
        return 1
    architectures = tuple(dict.fromkeys(args.arch or ARCHITECTURES))
    count = sum(arch in case.archs for _, case in cases for arch in architectures)
    if not count:
        print(
            f"error: no case of {', '.join(args.op or ops)} is for sm_{', sm_'.join(map(str, architectures))}",
            file=sys.stderr,
        )
        return 1
    rows = []
    for row in measure(cases, architectures):
        rows.append(row)
        if sys.stderr.isatty():
            print(f"\r\x1b[K{len(rows)}/{count} {row['kernel']}", end="", file=sys.stderr)
    if not args.arch:
        drop_stale(args.out, rows, {kernel for kernel, _ in cases} if args.op else None)
    KERNELS_STATIC.upsert(args.out, rows)
    bad = [row for row in rows if int(row["spills"]) or float(row["occupancy"]) == 0]
    for row in bad:
        why = f"spills {row['spills']} bytes a thread" if int(row["spills"]) else "does not fit a multiprocessor"
        print(f"{row['kernel']} {row['case']} {row['arch']}: {why}")
    print(f"{len(rows)} rows in {args.out}, {len(bad)} that spill or do not fit")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
