"""Export open_clip's architectures at full size with random weights: ``make zoo``.

Each export runs in a process of its own, so that its peak memory is its own; its rows are merged into
``benchmarks/results/zoo.csv`` as soon as it ends, and what is there already is skipped: kill it and start it again at will. Of fp16
graphs TensorRT-RTX engines are built, where it is installed; their rows are in ``zoo_engines.csv``.
Hugging Face's text towers are built from transformers' classes, with tokenizers trained on the spot, because that needs no model
hub.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.records.csv_file import commit
from benchmarks.records.results import RESULTS
from benchmarks.records.table_files import ZOO, ZOO_ENGINES
from benchmarks.workloads.architectures import architectures
from engines.engine_kinds import KINDS
from engines.precisions import PRECISIONS, QUANTIZED

if TYPE_CHECKING:
    from exporter.export_result import ExportResult

_CALIBRATION_IMAGES = 128  # the fewest that quantization takes
TARGETS = ("sm80", "sm89", "sm120")


def built_kinds(targets: Sequence[str]) -> tuple[str, ...]:
    """Kinds whose engines can be built for GPUs that are not in this machine, and whose library is installed; no target: no kind.

    The targets themselves are checked by the export, whose rows name a wrong one.
    """
    names = [name for name, kind in KINDS.items() if kind.builds_elsewhere and targets]
    return tuple(name for name in names if find_spec(KINDS[name].library) is not None)


def export_one(model: str, precision: str, samples: int, targets: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Export one architecture with random weights in this process.

    Returns:
        ``towers``: one row for each tower; ``engines``: one for each tower and target.
    """
    from benchmarks.workloads.inputs import calibration_folder
    from benchmarks.workloads.offline_text_towers import needs_hub, offline_architecture
    from exporter.errors import ExportError
    from exporter.options.engine_options import EngineOptions
    from exporter.pipeline import Options, run_export
    from exporter.stages import Stages

    kinds = built_kinds(targets)
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        if needs_hub(model):
            offline_architecture(model, Path(folder), name=model)
        start = time.perf_counter()
        options = Options(
            name=model,
            pretrained="none",
            precision=precision,
            engines=(*kinds, "onnxruntime"),
            parity_samples=samples,
            out=Path(folder) / "bundle",
            calibration=calibration_folder(Path(folder), _CALIBRATION_IMAGES) if precision in QUANTIZED else None,
            engine_options=EngineOptions(targets=tuple(targets)),
        )
        try:
            result = run_export(options, Stages())
        except Exception as error:  # noqa: BLE001  one architecture's bug is its row, and the others go on
            if not isinstance(error, ExportError):
                traceback.print_exc()
            why = str(error) if isinstance(error, ExportError) else f"{type(error).__name__}: {error}"
            status = why.splitlines()[0]
            rows = [{"model": model, "tower": t, "precision": precision, "status": status} for t in ("image", "text")]
            return {"towers": rows, "engines": []}
        print(f"{model} {precision}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
        return {
            "towers": _tower_rows(model, precision, result),
            "engines": _engine_rows(model, precision, result, kinds, targets),
        }


def _tower_rows(model: str, precision: str, result: ExportResult) -> list[dict[str, Any]]:
    import open_clip

    rows = []
    stages = result.report["stages"]
    parameters = next(stage["parameters"] for stage in stages if stage["step"] == "load")
    for name, tower in result.report["towers"].items():
        parity = result.manifest.parity[-1].towers[name]
        seconds = sum(stage["seconds"] for stage in stages if stage.get("tower") == name and stage["step"] != "build")
        rows.append(
            {
                "model": model,
                "tower": name,
                "precision": precision,
                "status": "ok",
                "seconds": round(seconds, 1),
                "peak_memory_mb": round(max(row["peak_memory_bytes"] for row in stages) / 1e6),
                "weights_fp32_mb": round(parameters * 4 / 1e6),
                "file_mb": round(tower["bytes"] / 1e6, 1),
                "nodes": sum(tower["operators"].values()),
                "attention_nodes": tower["operators"].get("Attention", 0),
                "fp32_units": len(result.manifest.towers[name].fp32_units),
                "samples": parity.samples,
                "max_abs_error": f"{parity.max_abs_error:.2e}",
                "min_cosine": f"{parity.min_cosine:.7f}",
                "versions": f"torch {result.manifest.created_with['torch']} open_clip {open_clip.__version__}",
            }
        )
    return rows


def _engine_rows(
    model: str, precision: str, result: ExportResult, kinds: Sequence[str], targets: Sequence[str]
) -> list[dict[str, Any]]:
    built = {(e.kind, e.tower, e.target.device): e for e in result.manifest.engines}
    rows = []
    for kind, tower, target in itertools.product(kinds, result.manifest.towers, targets):
        row = {"model": model, "tower": tower, "precision": precision, "engine": kind, "target": target}
        engine = built.get((kind, tower, target))
        if engine is None or engine.build is None:
            rows.append(row | {"status": why_left_out(result.report["left_out"], kind, tower, target)})
            continue
        rows.append(
            row
            | {
                "status": "ok",
                "seconds": round(engine.build.seconds, 1),
                "peak_memory_mb": round(engine.build.peak_memory_bytes / 1e6),
                "weights_mb": round(result.report["towers"][tower]["bytes"] / 1e6, 1),
                "file_mb": round(result.manifest.files[engine.file].bytes / 1e6, 1),
                "fused_attention": engine.build.fused_attention,
                "decomposed_attention": engine.build.decomposed_attention,
                "versions": f"{kind} {engine.target.version}",
            }
        )
    return rows


def why_left_out(left_out: Sequence[Mapping[str, Any]], kind: str, tower: str, target: str) -> str:
    """The reasons why an engine is not in the bundle; an entry without a tower or a device stands for all of them."""
    reasons = dict.fromkeys(
        f"left out: {engine['why']}"
        for engine in left_out
        if engine["kind"] == kind and engine["tower"] in (None, tower) and engine["device"] in (None, target)
    )
    return " ".join(reasons) or "not built"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the zoo, or with ``--one`` a single export that prints its rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="architectures or patterns (default: all)")
    parser.add_argument("--precision", action="append", choices=tuple(PRECISIONS), help="default: fp32 and fp16")
    parser.add_argument("--samples", type=int, default=4, help="images for the parity gate (default 4)")
    parser.add_argument("--results", type=Path, default=RESULTS / ZOO.name, help="the CSV file (default %(default)s)")
    parser.add_argument(
        "--targets", default=",".join(TARGETS), help="of the TensorRT-RTX engines of fp16 graphs; empty builds none"
    )
    parser.add_argument("--force", action="store_true", help="run what has rows already")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    chosen = list(dict.fromkeys(name for pattern in args.models or ["*"] for name in architectures(pattern)))
    for pattern in args.models:
        if not architectures(pattern):
            parser.error(f"no architecture of open_clip matches {pattern}")
    precisions = args.precision or ["fp32", "fp16"]
    targets = args.targets.split(",") if args.targets else []
    kinds = built_kinds(targets)
    if targets and not kinds:
        print("no engines are built: TensorRT-RTX is not installed", file=sys.stderr)
    if not kinds:
        targets = []
    if args.one:
        used = targets if precisions[0] == "fp16" else []
        print(json.dumps(export_one(args.models[0], precisions[0], args.samples, used)))
        return 0
    engines_csv = args.results.with_name(ZOO_ENGINES.name)
    failed = []
    for model, precision in itertools.product(chosen, precisions):
        used = targets if precision == "fp16" else []
        towers_done = all((model, t, precision) in ZOO.done(args.results) for t in ("image", "text"))
        built = ZOO_ENGINES.done(engines_csv)
        engines_done = all(
            (model, tower, precision, kind, target) in built
            for kind in kinds
            for tower in ("image", "text")
            for target in used
        )
        if towers_done and engines_done and not args.force:
            continue
        by_table = _run_one(model, precision, args.samples, used)
        mark = {"commit": commit()}
        if args.force or not towers_done:
            ZOO.upsert(args.results, [row | mark for row in by_table["towers"]])
        if used:
            ZOO_ENGINES.upsert(engines_csv, [row | mark for row in by_table["engines"]])
        if any(row["status"] != "ok" for rows in by_table.values() for row in rows):
            failed.append(f"{model} {precision}")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def _run_one(model: str, precision: str, samples: int, targets: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    command = [sys.executable, "-m", "benchmarks.zoo", "--one", model, "--precision", precision]
    command += ["--samples", str(samples), "--targets", ",".join(targets)]
    print(f"{model} {precision} …", file=sys.stderr, flush=True)
    ran = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"TQDM_DISABLE": "1"}, check=False)
    if ran.returncode == 0:
        by_table: dict[str, list[dict[str, Any]]] = json.loads(ran.stdout)
        for row in by_table["towers"]:
            if row["status"] != "ok":
                print(f"{model} {row['tower']} {precision}: {row['status']}", file=sys.stderr)
        return by_table
    status = "out of memory" if ran.returncode in (-9, 137) else f"exit code {ran.returncode}"
    print(f"{model} {precision}: {status}", file=sys.stderr)
    rows = [{"model": model, "tower": t, "precision": precision, "status": status} for t in ("image", "text")]
    return {"towers": rows, "engines": []}


if __name__ == "__main__":
    sys.exit(main())
