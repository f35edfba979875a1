"""Rows of machines that do not exist, for the tests of reports, plots, tables and comparisons."""

from __future__ import annotations

import random
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.records.figures import FIGURES
from benchmarks.records.rows import Row

CPU, GPU = "Imaginary CPU, 2 cores", "Imaginary GPU 80GB"
_SPEED = {
    "eager": 1.0,
    "torch.compile": 1.3,
    "torch.compile max-autotune": 1.45,
    "openvino plain": 1.6,
    "onnxruntime plain": 1.2,
    "onnxruntime": 1.7,
    "tensorrt": 2.4,
    "tensorrt-rtx": 2.2,
}
_GFLOPS = {
    ("demo", "image"): 0.05,
    ("demo", "text"): 0.03,
    ("ViT-B-32", "image"): 8.8,
    ("ViT-B-32", "text"): 6.0,
    ("ViT-L-14", "image"): 162.0,
    ("ViT-L-14", "text"): 13.3,
}
_CPU_ENGINES = [(e, "fp32") for e in ("eager", "torch.compile", "onnxruntime plain", "onnxruntime")]
_GPU_ENGINES = [("eager", "fp32"), *((e, "fp16") for e in _SPEED if e != "openvino plain")]


def quartiles(rng: random.Random, value: float, noise: float, rounds: int = 9) -> dict[str, Any]:
    """Median and quartiles of some rounds with lognormal noise."""
    low, median, high = np.percentile([value * rng.lognormvariate(0, noise) for _ in range(rounds)], (25, 50, 75))
    return {"value": float(median), "low": float(low), "high": float(high), "repeats": rounds}


def speeds(machine: str = CPU, seed: int = 0, noise: float = 0.01, slower: dict[str, float] | None = None) -> list[Row]:
    """Throughput and latency of a machine.

    Args:
        machine: `CPU` or `GPU`.
        seed: of the noise.
        noise: standard deviation of a round, relative.
        slower: engine → factor on its speed.
    """
    return list(_speeds(machine, random.Random(seed), noise, slower or {}))


def _speeds(machine: str, rng: random.Random, noise: float, slower: dict[str, float]) -> Iterator[Row]:
    peak = 0.4e12 if machine == CPU else 300e12
    models = ("demo", "ViT-B-32") if machine == CPU else ("ViT-B-32", "ViT-L-14")
    for (model, tower), gflops in _GFLOPS.items():
        shapes = ["224x224"] if tower == "image" else ["77 tokens", "real captions"]
        for shape in shapes if model in models else ():
            for engine, precision in _CPU_ENGINES if machine == CPU else _GPU_ENGINES:
                for batch in (1, 16) if machine == CPU else (1, 32, 256):
                    factor = _SPEED[engine] * (6 if precision == "fp16" else 1) * slower.get(engine, 1.0)
                    full = 0.06 * factor * peak / (gflops * 1e9)
                    rate = batch / (batch / full + (1e-4 if machine == CPU else 3e-4))
                    common: dict[str, Any] = {"model": model, "tower": tower, "engine": engine, "precision": precision}
                    common |= {"shape": shape, "batch": batch, "machine": machine, "commit": "0123456789"}
                    common |= {"versions": "torch 2.15.0", "date": "2026-01-01T00:00:00Z", "weights": "random"}
                    yield _row("throughput", "per_second", common, quartiles(rng, rate, noise))
                    if (engine, precision) != ("eager", "fp32"):
                        yield _row("throughput", "speedup", common, quartiles(rng, factor, noise))
                    if shape != "real captions":
                        achieved = quartiles(rng, rate * gflops / 1e3, noise)
                        yield _row("throughput", "tflops", common, achieved)
                    if batch == 1:
                        for figure, longer in (("p50", 1.0), ("p90", 1.1), ("p99", 1.6)):
                            yield _row("latency", figure, common, {"value": 1e3 / rate * longer, "repeats": 400})


def others(machine: str = CPU) -> list[Row]:
    """Ceilings, start, end to end, parity, zero-shot, retrieval, a missing peer, a failed and a noisy row."""
    found = []
    here: dict[str, Any] = {"machine": machine, "versions": "torch 2.15.0"}
    peaks = {"fp32": 0.4} if machine == CPU else {"fp32": 50.0, "fp16": 310.0}
    for precision, peak in peaks.items():
        columns = here | {"model": "matmul", "precision": precision, "engine": "torch", "note": "2048x2048x2048"}
        found.append(_row("ceiling", "tflops", columns, {"value": peak}))
    copy = 20.0 if machine == CPU else 1800.0
    found.append(_row("ceiling", "gbytes_per_second", here | {"model": "copy", "engine": "torch"}, {"value": copy}))
    model = "demo" if machine == CPU else "ViT-B-32"
    for engine, precision in _CPU_ENGINES if machine == CPU else _GPU_ENGINES:
        where = here | {"model": model, "engine": engine, "precision": precision}
        found.append(_row("start", "load", where | {"tower": "image"}, {"value": 0.25}))
        found.append(_row("start", "peak_host_memory", where | {"tower": "image"}, {"value": 512.0}))
        files = where | {"tower": "image", "batch": 32, "shape": "files"}
        found.append(_row("end_to_end", "per_second", files, {"value": 387.0}))
        found.append(_row("end_to_end", "decode_share", files, {"value": 0.356}))
        drop = (zlib.crc32(engine.encode()) % 7) / 1000 if precision == "fp16" else 0.0
        task = where | {"shape": "renders"}
        interval = {"value": 0.978 - drop, "low": 0.968 - drop, "high": 0.986 - drop, "repeats": 1000}
        found.append(_row("zero_shot", "top1", task, interval))
        found.append(_row("retrieval", "image_to_text_recall_1", task, interval))
        if engine != "eager" or precision != "fp32":
            change = {"value": -drop, "low": -drop - 0.002, "high": -drop + 0.002, "repeats": 1000}
            found.append(_row("zero_shot", "top1_change", task, change))
            for tower in ("image", "text"):
                data = where | {"tower": tower, "shape": "renders"}
                error = 3e-7 if precision == "fp32" else 2e-5 + drop / 100
                found += [
                    _row("parity", "min_cosine", data, {"value": 1 - 3 * error, "repeats": 64}),
                    _row("parity", "mean_cosine", data, {"value": 1 - error, "repeats": 64}),
                    _row("parity", "max_abs_error", data, {"value": 10 * error, "repeats": 64}),
                ]
    place = here | {"model": model, "tower": "image", "shape": "224x224", "precision": "fp32", "batch": 16}
    missing = {"status": "missing", "note": "not installed: openvino"}
    found.append(_row("throughput", "per_second", place | {"engine": "openvino plain"}, missing))
    failed = {"status": "failed", "note": "RuntimeError: out of | memory <at> 16"}
    found.append(_row("throughput", "per_second", place | {"engine": "aotinductor"}, failed))
    noisy = {"value": 100.0, "low": 80.0, "high": 120.0, "status": "noisy"}
    found.append(_row("throughput", "per_second", place | {"engine": "a later kernel"}, noisy))
    return found


def _row(what: str, figure: str, columns: dict[str, Any], values: dict[str, Any]) -> Row:
    return Row(what=what, figure=figure, unit=FIGURES[figure].unit, **(columns | values))
