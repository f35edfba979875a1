"""The highest rates of this machine: large matrix products in every precision, and copies. ``python -m benchmarks ceilings``.

Measured on random values, because zeros take less power. The best of a few sizes counts, because it is a ceiling.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness.timing import SECONDS, timed
from benchmarks.records import rows as rowfiles
from benchmarks.records.estimates import Estimate, estimate
from benchmarks.records.figures import FIGURES
from benchmarks.records.machine import clock_mhz, stamp, this_machine, versions
from benchmarks.records.precisions import UNQUANTIZED, torch_dtype
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row

if TYPE_CHECKING:
    from benchmarks.harness.keeper import Keeper

_SIZES = {"cpu": (1024, 2048), "cuda": (4096, 8192)}
_COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 31}


def keep_ceilings(keeper: Keeper, sizes: Sequence[int] = (), seconds: float = SECONDS) -> bool:
    """`measure_ceilings` as a step of a suite, unless it has them already."""
    if not keeper.is_done(("ceiling", "copy", "", "torch", "", "0", "")):
        print_ceilings(keeper.add(measure_ceilings(keeper.device, sizes, seconds)))
    return True


def measure_ceilings(device: str, sizes: Sequence[int] = (), seconds: float = SECONDS) -> list[Row]:
    """Rows of ``what = ceiling``: matrix products as TFLOP/s (int8: TOP/s), copies as GB/s read plus written.

    Args:
        device: ``cpu`` or ``cuda``.
        sizes: n of products of n × n matrices; empty: sizes that fill the device.
        seconds: time of each measurement.
    """
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    rows = []
    for precision, make in _products(device).items():
        best: tuple[int, Estimate] | None = None
        problem = ""
        for n in sizes or _SIZES[device]:
            try:
                taken = timed(make(n), device, seconds)
            except (RuntimeError, NotImplementedError, AttributeError) as error:
                problem = " ".join(str(error).split())[:160]
                continue
            rate = estimate([2 * n**3 / s / 1e12 for s in taken])
            if best is None or rate.value > best[1].value:
                best = n, rate
        rows.append(_row("matmul", "tflops", precision, best, problem))
    size = _COPY_BYTES[device] if not sizes else 8 * max(sizes) ** 2
    source = torch.randint(0, 255, (size,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    taken = timed(lambda: target.copy_(source), device, seconds)
    rate = estimate([2 * size / s / 1e9 for s in taken])
    rows.append(_row("copy", "gbytes_per_second", "", (size, rate), ""))
    return rows


def _products(device: str) -> dict[str, Callable[[int], Callable[[], object]]]:
    """For each precision, a function from n to a product of two n × n matrices."""
    import torch

    def plain(dtype: Any) -> Callable[[int], Callable[[], object]]:
        def make(n: int) -> Callable[[], object]:
            x, y = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
            return lambda: x @ y

        return make

    def int8(n: int) -> Callable[[], object]:
        x, y = (torch.randint(-127, 127, (n, n), device=device, dtype=torch.int8) for _ in range(2))
        y = y.t()
        return lambda: torch._int_mm(x, y)

    def fp8(n: int) -> Callable[[], object]:
        x, y = (torch.randn(n, n, device=device).to(torch.float8_e4m3fn) for _ in range(2))
        y, one = y.t(), torch.ones((), device=device)
        return lambda: torch._scaled_mm(x, y, scale_a=one, scale_b=one, out_dtype=torch.bfloat16)

    products = {name: plain(torch_dtype(name)) for name in (UNQUANTIZED if device == "cuda" else ("fp32",))}
    if device == "cuda":
        products["fp8"] = fp8
    return products | {"int8": int8}


def _row(what: str, figure: str, precision: str, best: tuple[int, Estimate] | None, problem: str) -> Row:
    common: dict[str, Any] = {"what": "ceiling", "model": what, "figure": figure, "precision": precision}
    common |= {"engine": "torch", "unit": FIGURES[figure].unit, "versions": versions(("torch",))}
    if best is None:
        return Row(status="missing", note=problem, **common)
    n, rate = best
    note = f"{n}x{n}x{n}" if what == "matmul" else f"{n >> 20} MiB"
    status: Any = "noisy" if rate.noisy else "ok"
    return Row(value=rate.value, low=rate.low, high=rate.high, repeats=rate.repeats, note=note, status=status, **common)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    from benchmarks.throughput import pick_device

    parser = argparse.ArgumentParser(prog="python -m benchmarks ceilings", description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    try:
        machine = this_machine(device)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    rows = stamp(measure_ceilings(device), machine, clock_mhz=clock_mhz(device))
    rowfiles.merge(args.results or RESULTS / machine.slug, rows)
    print_ceilings(rows)
    return 0


def print_ceilings(rows: Sequence[Row]) -> None:
    """Print a line for each ceiling."""
    for row in rows:
        value = f"{row.value:>10,.4g} {row.unit}" if row.value is not None else f"   {row.note}"
        print(f"  {row.model + ' ' + row.precision:<16}{value}")
