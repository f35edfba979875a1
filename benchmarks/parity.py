"""``python -m benchmarks parity BUNDLE``: every engine of a bundle against eager float32 PyTorch, end to end."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.records.results import RESULTS
from engines.errors import EngineError, EngineUnavailableError, InputError
from exporter.errors import ExportError

if TYPE_CHECKING:
    from benchmarks.accuracy.clip_benchmark import Job
    from benchmarks.accuracy.measurement import Run
    from engines.manifest import Manifest
    from exporter.datasets import Dataset

_EPILOG = """\
what --data may be:
  a folder with a folder of pictures for each class        zero-shot; names from the folders, ImageNet's ids or classnames.txt
  a folder of pictures with captions.txt, .tsv or .csv     retrieval; lines are path, tab, caption; or columns image,caption
  a folder of pictures with a .txt beside each             retrieval; every line is a caption
  .tar files (webdataset) or a folder of them              zero-shot where there is .cls and classnames.txt, retrieval where .txt
The demo model is measured on rendered scenes without --data; of other models without it only embeddings are compared.

exit codes: 0 done; 1 something you can mend, said in one line; 130 interrupted: rows of what was finished are kept.
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks parity",
        description="Compare a bundle's engines with eager float32 PyTorch: embeddings, zero-shot accuracy, retrieval.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument("--data", type=Path, metavar="PATH", help="labelled pictures: a folder or a webdataset")
    parser.add_argument("--split", default="test", help="of clip-benchmark's layout (default: test)")
    parser.add_argument("--limit", type=int, metavar="N", help="measure accuracy on no more than N pictures of it")
    parser.add_argument("--template", action="append", metavar="TEXT", help="prompt with {} for the class; repeatable")
    parser.add_argument("--clip-benchmark", action="store_true", help="measure accuracy by LAION's clip-benchmark")
    parser.add_argument(
        "--parity-data", type=Path, metavar="DIR", help="pictures (and captions.txt) to compare embeddings of"
    )
    parser.add_argument(
        "--samples", type=int, default=256, metavar="N", help="pictures and captions for it (default: 256)"
    )
    parser.add_argument("--engine", default="all", metavar="NAME", help="one kind of engine (default: all)")
    parser.add_argument(
        "--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: the GPU if there is one"
    )
    parser.add_argument(
        "--pretrained", metavar="PATH", help="eager's weights, where the bundle does not say where they are"
    )
    parser.add_argument(
        "--results", type=Path, metavar="DIR", help="where rows go (default: benchmarks/results/MACHINE)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object with all rows")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    args = build_parser().parse_args(argv)
    try:
        return run(args)
    except (EngineError, ExportError) as error:
        if os.environ.get("OPENCLIP_ENGINES_DEBUG"):
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted: rows of what was finished are kept", file=sys.stderr)
        return 130


def run(args: argparse.Namespace) -> int:
    """Measure, and print; 1 if no engine could be measured."""
    from engines.bundle_files import verify_files
    from engines.manifest import read_manifest

    if args.samples < 2:
        raise InputError(f"--samples {args.samples} is too few: pass 2 or more")
    manifest = read_manifest(args.bundle)
    verify_files(args.bundle, manifest)
    current = _start(args, manifest)
    dataset = _dataset(args, current)
    inputs_name = _inputs_name(args, dataset)
    kinds = _runnable(args, current, dataset, inputs_name)
    job = _clip_benchmark_job(args, dataset)
    from benchmarks.accuracy.eager import load_eager
    from benchmarks.accuracy.inputs import dataset_inputs, natural_inputs
    from benchmarks.accuracy.measurement import Measurement

    if dataset is not None and args.data is not None and args.parity_data is None:
        inputs = dataset_inputs(dataset, args.samples)
    else:
        inputs = natural_inputs(args.parity_data, args.samples)
        for note in inputs.pictures.notes:
            current.note(note)
    eager = load_eager(args.bundle, manifest, args.pretrained, current.device)
    measurement = Measurement(current, eager, inputs, dataset, job)
    measured = [measurement.measure_engine(kind, args.device) for kind in kinds]
    _print(args, current, eager.error)
    return 0 if any(measured) else 1


def _start(args: argparse.Namespace, manifest: Manifest) -> Run:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "open_clip") if find_spec(name) is None]
    if missing:
        raise InputError(
            f"parity compares with eager PyTorch and needs {', '.join(missing)}: pip install 'openclip-engines[export]'"
        )
    import torch

    from benchmarks.accuracy.measurement import Run
    from benchmarks.records.machine import this_machine

    has_gpu = torch.cuda.is_available()
    if args.device == "cuda" and not has_gpu:
        raise InputError("PyTorch finds no GPU here: measure with --device cpu")
    device = "cuda" if has_gpu and args.device != "cpu" else "cpu"
    try:
        machine = this_machine(device)
    except RuntimeError as error:
        raise InputError(str(error)) from error
    results = args.results or RESULTS / machine.slug
    return Run(args.bundle, manifest, device, machine, results)


def _dataset(args: argparse.Namespace, current: Run) -> Dataset | None:
    """The dataset on which accuracy is measured; None, with a note, where it is not."""
    from exporter.datasets import demo_dataset, open_dataset

    model, towers = current.manifest.model, current.manifest.towers
    if args.data is None and (args.split != "test" or args.template or args.clip_benchmark):
        raise InputError("--split, --template and --clip-benchmark are about a dataset: name it with --data")
    if args.clip_benchmark and args.limit is not None:
        raise InputError("clip-benchmark evaluates whole datasets: drop --limit or --clip-benchmark")
    reason = None
    if len(towers) < 2:
        reason = f"the bundle has only its {next(iter(towers))} tower: accuracy needs both, export it with --towers image,text"
    elif model.source == "random":
        reason = "the bundle has random weights: its accuracy would say nothing, so only embeddings can be compared"
    if reason is not None and args.data is not None:
        raise InputError(f"{reason}; pass pictures with --parity-data instead of --data")
    if reason is None and args.data is not None:
        dataset = open_dataset(args.data, args.split, args.template, args.limit)
        for note in dataset.notes:
            current.note(note)
        return dataset
    if reason is None and model.source == "demo":
        return demo_dataset(args.limit)
    current.note(reason or "zero-shot and retrieval were not measured: pass labelled pictures with --data")
    return None


def _inputs_name(args: argparse.Namespace, dataset: Dataset | None) -> str:
    if args.parity_data is not None:
        return str(args.parity_data.resolve().name)
    return dataset.name if dataset is not None and args.data is not None else "natural pictures"


def _runnable(args: argparse.Namespace, current: Run, dataset: Dataset | None, inputs_name: str) -> list[str]:
    """Kinds of engine that can run every tower here; the others get rows that say why not."""
    from benchmarks.accuracy.rows import empty_accuracy_rows, empty_parity_rows

    manifest = current.manifest
    kinds = list(dict.fromkeys(engine.kind for engine in manifest.engines))
    if args.engine not in ("all", *kinds):
        raise EngineUnavailableError(f"the bundle has no engine {args.engine!r}: it has {', '.join(kinds)}")
    runnable_kinds, problems = [], []
    for kind in kinds if args.engine == "all" else [args.engine]:
        problem = _why_not(current, kind, args.device)
        if problem is None:
            runnable_kinds.append(kind)
            continue
        problems.append(problem)
        rows = empty_parity_rows(kind, manifest, inputs_name, "missing", problem)
        if dataset is not None:
            name = f"{kind}, clip-benchmark" if args.clip_benchmark else kind
            rows += empty_accuracy_rows(dataset.tasks, name, manifest, dataset.name, "missing", problem)
        current.add(rows, "")
    if not runnable_kinds:
        raise EngineUnavailableError(f"no engine of the bundle that was asked for can run here ({'; '.join(problems)})")
    return runnable_kinds


def _why_not(current: Run, kind: str, device: str) -> str | None:
    """Why no engine of that kind can run one of the towers here; None if one can for each."""
    from engines.runtimes.choice import candidates, label

    for tower in current.manifest.towers:
        items = candidates(current.bundle, current.manifest, tower, device, kind)
        if all(item.why_not is not None for item in items):
            reasons = [f"{label(item.engine)}: {item.why_not}" for item in items]
            return "; ".join(dict.fromkeys(reasons)) or f"{kind}: there is none for the {tower} tower"
    return None


def _clip_benchmark_job(args: argparse.Namespace, dataset: Dataset | None) -> Job | None:
    if not args.clip_benchmark or dataset is None:
        return None
    from benchmarks.accuracy.clip_benchmark import prepare

    return prepare(args.data, args.split, dataset)


def _print(args: argparse.Namespace, current: Run, reference_error: float) -> None:
    import dataclasses

    from benchmarks.accuracy.rows import tables
    from engines.files.json_text import json_text

    if args.json:
        shown = {
            "bundle": str(args.bundle),
            "machine": current.machine.name,
            "results": str(current.results),
            "reference_error": reference_error,
            "notes": current.notes,
            "rows": [dataclasses.asdict(row) for row in current.rows],
        }
        print(json_text(shown))
        return
    print(tables(current.rows))
    print(f"\neager reproduces the bundle's reference within {reference_error:.1e}; rows are in {current.results}")
    for note in current.notes:
        print(note)
