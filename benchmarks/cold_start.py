"""The cost before the first embedding: export time and memory, import, load. ``python -m benchmarks cold-start``.

Rows of ``what = export``, one set for each architecture, precision and choice of engines; for int8 and fp8 also the time of
quantizing, and the share of the products that it covers. No test depends on these figures.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.case_rows import row_of
from benchmarks.records import rows as rowfiles
from benchmarks.records.estimates import Estimate, estimate
from benchmarks.records.machine import stamp, this_machine, versions
from benchmarks.records.results import RESULTS
from benchmarks.records.rows import Row
from engines.engine_kinds import KINDS
from engines.precisions import PRECISIONS, QUANTIZED

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


@dataclass(frozen=True)
class ExportOrder:
    """One export.

    Attributes:
        model: an architecture; its weights are random.
        precision: ``fp32``, ``int8``, ….
        calibration: folder of pictures for quantized precisions.
        engines: kinds of engines; empty is the exporter's choice.
        targets: GPU architectures of built engines.
    """

    model: str
    precision: str = "fp32"
    calibration: Path | None = None
    engines: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()

    def command(self, bundle: Path) -> list[str]:
        """The exporter's command line; its report comes as JSON."""
        words = [sys.executable, "-m", "exporter", self.model, "--pretrained", "none", f"--{self.precision}"]
        words += ["--out", str(bundle), "--json"]
        words += [] if self.calibration is None else ["--calibration", str(self.calibration)]
        for engine in self.engines:
            words += ["--engine", engine]
        for target in self.targets:
            words += ["--target", target]
        return words


@dataclass(frozen=True)
class BundleEngines:
    """The engines of a bundle, as rows name them.

    Attributes:
        label: kinds and targets: ``onnxruntime + tensorrt-rtx sm80``.
        versions: the libraries that exported, serve and built.
    """

    label: str
    versions: str


def measure(order: ExportOrder) -> list[Row]:
    """All figures of one export; those of a serving process only where an engine of the bundle runs here."""
    with tempfile.TemporaryDirectory(prefix="cold-start-") as folder:
        bundle = Path(folder) / "bundle"
        report = json.loads(subprocess.run(order.command(bundle), check=True, stdout=subprocess.PIPE).stdout)
        manifest = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
        engines = engines_of(manifest)
        rows = export_rows(order, engines, report)
        if any(_starts_here(engine["kind"]) for engine in manifest["engines"]):
            rows += _startup_rows(order, engines, bundle, Path(folder))
        return rows


def export_rows(order: ExportOrder, engines: BundleEngines, report: dict[str, Any]) -> list[Row]:
    """The rows of time and memory that a report gives.

    Args:
        order: the export.
        engines: the bundle's.
        report: ``report.json`` of the bundle.
    """
    stages = report["stages"]
    seconds = sum(stage["seconds"] for stage in stages)
    peak = max(stage["peak_memory_bytes"] for stage in stages)
    weights = 4 * next(stage["parameters"] for stage in stages if stage["step"] == "load")
    rows = [
        _row(order, engines, "export_seconds", _once(seconds), "both towers, parity gate included"),
        _row(order, engines, "export_memory", _once(peak / weights), "peak resident memory over float32 weights"),
    ]
    quantized = [stage for stage in stages if stage["step"] == "quantize"]
    if quantized:
        images = next(stage["images"] for stage in stages if stage["step"] == "calibration")
        note = f"both towers, search included; {images} images"
        rows.append(_row(order, engines, "quantize_seconds", _once(sum(s["seconds"] for s in quantized)), note))
        share = min(stage["share_of_flops"] for stage in quantized)
        note = "of the FLOPs of linear layers and convolutions; the lower of both towers"
        rows.append(_row(order, engines, "quantized_share", _once(share), note))
    return rows


def _startup_rows(order: ExportOrder, engines: BundleEngines, bundle: Path, folder: Path) -> list[Row]:
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
        _row(order, engines, name, estimate(taken), note)
        for name, taken in zip(names, zip(*runs, strict=True), strict=True)
    ]


def _starts_here(kind: str) -> bool:
    """Whether the kind's engines run on any machine, and without PyTorch, as `_STARTUP` demands it."""
    return KINDS[kind].cpu and KINDS[kind].runs_graph


def engines_of(manifest: dict[str, Any]) -> BundleEngines:
    """The engines that a bundle's manifest names."""
    built = {
        f"{engine['kind']} {engine['target']['version']}": None
        for engine in manifest["engines"]
        if not KINDS[engine["kind"]].runs_graph
    }
    return BundleEngines(
        " + ".join(dict.fromkeys(_kind(engine) for engine in manifest["engines"])),
        " ".join([versions(("torch", "onnxruntime")), *built]),
    )


def _kind(engine: dict[str, Any]) -> str:
    """``tensorrt-rtx sm80``; an engine that runs anywhere is named alone."""
    device = str((engine.get("target") or {}).get("device", ""))
    return f"{engine['kind']} {device}" if device.startswith("sm") else str(engine["kind"])


def _once(value: float) -> Estimate:
    return Estimate(value, value, value, 1)


def _row(order: ExportOrder, engines: BundleEngines, figure: str, value: Estimate, note: str) -> Row:
    return row_of(
        figure,
        value,
        what="export",
        model=order.model,
        engine=engines.label,
        precision=order.precision,
        note=note,
        weights="random",
        versions=engines.versions,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and merge the rows."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks cold-start", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=["ViT-B-32"], help="architectures (default ViT-B-32)")
    parser.add_argument("--precision", choices=tuple(PRECISIONS), default="fp32", help="of the graphs (default fp32)")
    parser.add_argument("--calibration", type=Path, help=f"pictures for {' and '.join(QUANTIZED)}")
    parser.add_argument("--engine", action="append", default=[], help="as the exporter's; repeatable")
    parser.add_argument("--target", action="append", default=[], help="as the exporter's; repeatable")
    parser.add_argument("--results", type=Path, help="folder for the rows (default benchmarks/results/<machine>)")
    args = parser.parse_args(argv)
    machine = this_machine()
    for model in args.models:
        order = ExportOrder(model, args.precision, args.calibration, tuple(args.engine), tuple(args.target))
        try:
            rows = stamp(measure(order), machine)
        except subprocess.CalledProcessError as error:
            print(f"error: {model}: the export ended with exit code {error.returncode}", file=sys.stderr)
            return 1
        rowfiles.merge(args.results or RESULTS / machine.slug, rows)
        for row in rows:
            print(f"{model:<16} {row.figure:<16} {row.value:>8.3g} {row.unit:<3} {row.note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
