"""Export the architectures of open_clip's classic list at full size with random weights: ``make zoo``.

Each export runs in a process of its own, so that its peak memory is its own; its rows are merged into
``benchmarks/results/zoo.csv`` as soon as it ends, and what is there already is skipped: kill it and start it again at will.
RoBERTa's and XLM-RoBERTa's configurations are built from transformers' classes, for no model hub is needed here.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.results_file import commit, read_rows, upsert

RESULTS = Path(__file__).parent / "results" / "zoo.csv"
COLUMNS = (
    "model",
    "tower",
    "precision",
    "status",
    "seconds",
    "peak_memory_mb",
    "weights_fp32_mb",
    "file_mb",
    "nodes",
    "attention_nodes",
    "fp32_units",
    "samples",
    "max_abs_error",
    "min_cosine",
    "versions",
    "commit",
)
_KEY = ("model", "tower", "precision")


# The classic list: ResNet, ViT, ConvNeXt, EVA, CoCa and RoBERTa towers, in order of size.
MODELS = (
    "ViT-B-32",
    "ViT-B-32-quickgelu",
    "ViT-B-16",
    "ViT-B-16-plus-240",
    "RN50",
    "RN50-quickgelu",
    "RN101",
    "RN101-quickgelu",
    "RN50x4",
    "EVA02-B-16",
    "convnext_base",
    "convnext_base_w",
    "convnext_base_w_320",
    "roberta-ViT-B-32",
    "coca_ViT-B-32",
    "RN50x16",
    "convnext_large_d",
    "convnext_large_d_320",
    "xlm-roberta-base-ViT-B-32",
    "ViT-L-14",
    "ViT-L-14-336",
    "EVA02-L-14",
    "EVA02-L-14-336",
    "RN50x64",
    "coca_ViT-L-14",
    "ViT-H-14",
    "EVA01-g-14",
    "xlm-roberta-large-ViT-H-14",
    "convnext_xxlarge",
    "ViT-g-14",
    "EVA01-g-14-plus",
    "ViT-bigG-14",
    "EVA02-E-14",
    "EVA02-E-14-plus",
)


def published_architectures() -> list[str]:
    """Every architecture that open_clip's list of pretrained tags names."""
    import open_clip

    return list(dict.fromkeys(name for name, _ in open_clip.list_pretrained()))


def export_one(model: str, precision: str, samples: int) -> list[dict[str, Any]]:
    """Export one architecture with random weights in this process; one row for each tower."""
    import open_clip

    from benchmarks.offline_text_towers import ARCHITECTURES, offline_architecture
    from exporter.pipeline import Options, run_export
    from exporter.stages import Stages

    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        if model in ARCHITECTURES:
            offline_architecture(model, Path(folder), name=model)
        start = time.perf_counter()
        options = Options(
            name=model, pretrained="none", precision=precision, parity_samples=samples, out=Path(folder) / "bundle"
        )
        result = run_export(options, Stages())
        seconds = time.perf_counter() - start
        rows = []
        stages = {row["stage"]: row for row in result.report["stages"]}
        for name, tower in result.report["towers"].items():
            parity = result.manifest.parity[-1].towers[name]
            own = [row for stage, row in stages.items() if name in stage]
            rows.append(
                {
                    "model": model,
                    "tower": name,
                    "precision": precision,
                    "status": "ok",
                    "seconds": round(sum(row["seconds"] for row in own), 1),
                    "peak_memory_mb": round(max(row["peak_memory_bytes"] for row in stages.values()) / 1e6),
                    "weights_fp32_mb": round(stages["load the model"]["parameters"] * 4 / 1e6),
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
        print(f"{model} {precision}: {seconds:.0f} s", file=sys.stderr)
        return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the zoo, or with ``--one`` a single export that prints its rows as JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="architectures (default: the 34 of the classic list)")
    parser.add_argument("--all", action="store_true", help="every architecture that has a pretrained tag")
    parser.add_argument("--precision", action="append", choices=("fp32", "fp16", "bf16"), help="default: fp32 and fp16")
    parser.add_argument("--samples", type=int, default=4, help="images for the parity gate (default 4)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the CSV file")
    parser.add_argument("--force", action="store_true", help="run what has rows already")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    precisions = args.precision or ["fp32", "fp16"]
    if args.one:
        print(json.dumps(export_one(args.models[0], precisions[0], args.samples)))
        return 0
    done = {tuple(row[name] for name in _KEY) for row in read_rows(args.results) if row["status"] == "ok"}
    failed = []
    for precision in precisions:
        for model in args.models or (published_architectures() if args.all else MODELS):
            if not args.force and all((model, tower, precision) in done for tower in ("image", "text")):
                continue
            rows, ok = _run_one(model, precision, args.samples)
            upsert(args.results, [row | {"commit": commit()} for row in rows], COLUMNS, _KEY)
            failed += [] if ok else [f"{model} {precision}"]
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return 1 if failed else 0


def _run_one(model: str, precision: str, samples: int) -> tuple[list[dict[str, Any]], bool]:
    command = [
        sys.executable,
        "-m",
        "benchmarks.zoo",
        "--one",
        model,
        "--precision",
        precision,
        "--samples",
        str(samples),
    ]
    print(f"{model} {precision} …", file=sys.stderr, flush=True)
    ran = subprocess.run(command, stdout=subprocess.PIPE, env=os.environ | {"TQDM_DISABLE": "1"}, check=False)
    if ran.returncode == 0:
        return json.loads(ran.stdout), True
    status = "out of memory" if ran.returncode in (-9, 137) else f"exit code {ran.returncode}"
    print(f"{model} {precision}: {status}", file=sys.stderr)
    rows = [{"model": model, "tower": t, "precision": precision, "status": status} for t in ("image", "text")]
    return rows, False


if __name__ == "__main__":
    sys.exit(main())
