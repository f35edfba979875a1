"""Predicted speed: the upper bound of each architecture on GPUs that are not here. ``python -m benchmarks.roofline``.

A batch takes at least as long as its arithmetic at the GPU's rate, and at least as long as moving its weights and activations once
at the memory's bandwidth. Nothing runs that fast; the measured share of it shows the possible gain.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.records.csv_file import commit
from benchmarks.records.results import RESULTS
from benchmarks.records.table_files import PREDICTED, ROOFLINE
from benchmarks.workloads.gpus import GPUS, GpuCeiling

BATCH = 32


def predicted_rate(flops: float, weight_bytes: float, activation_bytes: float, batch: int, gpu: GpuCeiling) -> float:
    """Images or texts per second that a GPU cannot exceed in float16.

    Args:
        flops: operations for one image or text.
        weight_bytes: bytes of weights, read once for a batch.
        activation_bytes: bytes of activations for one image or text.
        batch: number of images or texts that run together.
        gpu: the GPU's ceilings.
    """
    arithmetic = batch * flops / (gpu.half * 1e12)
    memory = (weight_bytes + batch * activation_bytes) / (gpu.bandwidth * 1e12)
    return batch / max(arithmetic, memory)


def rows_of(model: str) -> list[dict[str, Any]]:
    """One row for each tower."""
    import open_clip
    import torch

    from benchmarks.workloads.flops import count_work

    rows = []
    for tower, work in count_work(model).items():
        row: dict[str, Any] = {
            "model": model,
            "tower": tower,
            "tokens": work.tokens or "",
            "gflops": f"{work.flops / 1e9:.2f}",
            "weights_mb": f"{work.weight_bytes / 1e6:.1f}",
            "activations_mb": f"{work.activation_bytes / 1e6:.2f}",
            "batch": BATCH,
            "versions": f"torch {torch.__version__} open_clip {open_clip.__version__}",
        }
        for name in PREDICTED:
            rate = predicted_rate(work.flops, work.read_bytes, work.activation_bytes, BATCH, GPUS[name])
            row[f"predicted_per_s_{name}"] = round(rate)
        rows.append(row)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Write the rows of the 34 architectures, or of those that are named."""
    from benchmarks.workloads.architectures import CLASSIC

    parser = argparse.ArgumentParser(prog="python -m benchmarks.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="architectures (default: the 34 of the classic list)")
    parser.add_argument(
        "--results", type=Path, default=RESULTS / ROOFLINE.name, help="the CSV file (default %(default)s)"
    )
    args = parser.parse_args(argv)
    for model in args.models or CLASSIC:
        rows = rows_of(model)
        ROOFLINE.upsert(args.results, [row | {"commit": commit()} for row in rows])
        print(model, *(f"{row['tower']} {row['gflops']} GFLOP" for row in rows), file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
