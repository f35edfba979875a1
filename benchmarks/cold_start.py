"""What it takes before the first embedding: export time and memory, import, load. ``python -m benchmarks cold-start``.

Rows of ``what = export``, one set for each architecture; nothing here decides a test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import rows as rowfiles
from benchmarks.case_rows import row_of
from benchmarks.estimates import Estimate, estimate
from benchmarks.machine import stamp, this_machine, versions
from benchmarks.rows import Row

RESULTS = Path(__file__).parent / "results"
_STARTS = 5

_STARTUP = """
import time; start = time.perf_counter()
import sys, engines
imported = time.perf_counter() - start
assert "torch" not in sys.modules
clip = engines.load(sys.argv[1]); clip.encode_text(["a photo of a dog"])
text = time.perf_counter() - start
clip.encode_image([sys.argv[2]])
print(imported, text, time.perf_counter() - start)
assert "torch" not in sys.modules
"""


def measure(model: str) -> list[Row]:
    """All figures of one architecture with random weights."""
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        bundle = Path(folder) / "bundle"
        command = [sys.executable, "-m", "exporter", model, "--pretrained", "none", "--out", str(bundle), "--json"]
        report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        return [*_export_rows(model, report), *_startup_rows(model, bundle, Path(folder))]


def _export_rows(model: str, report: dict[str, Any]) -> list[Row]:
    stages = report["stages"]
    seconds = sum(stage["seconds"] for stage in stages)
    peak = max(stage["peak_memory_bytes"] for stage in stages)
    weights = 4 * next(stage["parameters"] for stage in stages if "parameters" in stage)
    return [
        _row(model, "export_seconds", _once(seconds), "both towers, parity gate included"),
        _row(model, "export_memory", _once(peak / weights), "peak resident memory over float32 weights"),
    ]


def _startup_rows(model: str, bundle: Path, folder: Path) -> list[Row]:
    from PIL import Image

    picture = folder / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)).save(picture)
    runs = []
    for _ in range(_STARTS):
        command = [sys.executable, "-c", _STARTUP, str(bundle), str(picture)]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        runs.append([float(value) for value in output.split()])
    note = f"{_STARTS} fresh processes, files in the page cache"
    names = ("import_engines", "first_text", "first_image")
    return [
        _row(model, name, estimate(taken), note) for name, taken in zip(names, zip(*runs, strict=True), strict=True)
    ]


def _once(value: float) -> Estimate:
    return Estimate(value, value, value, 1)


def _row(model: str, figure: str, value: Estimate, note: str) -> Row:
    return row_of(
        figure,
        value,
        what="export",
        model=model,
        engine="onnxruntime",
        precision="fp32",
        note=note,
        weights="random",
        versions=versions(("torch", "onnxruntime")),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and merge the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cold-start", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["ViT-B-32"], help="architectures (default ViT-B-32)")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    args = parser.parse_args(argv)
    machine = this_machine()
    for model in args.models:
        try:
            found = stamp(measure(model), machine)
        except subprocess.CalledProcessError as error:
            print(f"error: {model}: the export ended with exit code {error.returncode}", file=sys.stderr)
            return 1
        rowfiles.merge(args.results or RESULTS / machine.slug, found)
        for row in found:
            print(f"{model:<16} {row.figure:<16} {row.value:>8.3g} {row.unit:<3} {row.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
