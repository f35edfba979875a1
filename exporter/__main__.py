"""The command line: ``python -m exporter MODEL``."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from engines.precisions import QUANTIZED
from exporter.errors import ExportError
from exporter.options.export_options import Options
from exporter.options.flags import add_flags, from_arguments
from exporter.requirements import run_command
from exporter.standard_output import print_answer, standard_output_is_ours

_EPILOG = """\
exit codes: 0 done; 1 something you can mend, said in one line; 3 the parity gate failed and nothing was written.
Where an engine that was named cannot be built and others can, the bundle is written with the others, lines that
begin with "left out: " say why, and the exit code is 1.

examples:
  python -m exporter demo --out demo-bundle
  python -m exporter ViT-L-14 --fp16
  python -m exporter ViT-B-32 --pretrained weights.safetensors --parity-data photos/
  python -m exporter --list 'ViT-*'
  python -m exporter doctor                     # what can be built and run on this machine
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter",
        description="Export an OpenCLIP model to a verified bundle that serves without PyTorch.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--list", nargs="?", const="*", metavar="PATTERN", help="list models and their tags, and stop")
    add_flags(parser, Options)
    parser.add_argument("--dry-run", action="store_true", help="say what the export would do and need, and stop")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every stage's figures")
    parser.add_argument(
        "--push", metavar="ORG/NAME", help="upload the bundle to the Hugging Face hub when it is complete"
    )
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list is None and args.name is None:
        parser.error("name a MODEL, or pass --list")
    if args.list is not None and _given(parser, args) != {"list"}:
        parser.error("--list stands alone, with a pattern at most")
    if args.list is None and args.name == "doctor":
        if not _given(parser, args) <= {"name", "out", "json"}:
            parser.error("doctor takes --out and --json, and no option of an export")
        return run_command(lambda: _doctor(args), modules=())
    return run_command(lambda: _list(args.list) if args.list is not None else _export(args))


def _given(parser: argparse.ArgumentParser, args: argparse.Namespace) -> set[str]:
    """The names of the arguments that differ from their defaults."""
    defaults = vars(parser.parse_args([]))
    return {name for name, value in vars(args).items() if value != defaults[name]}


def _list(pattern: str) -> int:
    from exporter.source.model_list import format_models, list_models

    rows = list_models(pattern)
    with contextlib.suppress(BrokenPipeError):
        print(format_models(rows))
    return 0


def _doctor(args: argparse.Namespace) -> int:
    from exporter.doctor.command import doctor

    return doctor(from_arguments(Options, args).out, args.json)


def _export(args: argparse.Namespace) -> int:
    from engines.files.json_text import json_text
    from exporter.pipeline import run_export
    from exporter.stages import Stages

    options = from_arguments(Options, args)
    if args.push is not None:
        from exporter.publishing.push import check_name

        check_name(args.push)
    if args.dry_run:
        from exporter.planning.command import dry_run

        return dry_run(options, args.json)
    if args.push is not None:
        from exporter.publishing.push import check_push

        check_push(args.push)
    stages = Stages(sys.stderr)
    with stages.interruptible(), standard_output_is_ours():
        result = run_export(options, stages)
    layout = {} if result.layout is None else {"layout": str(result.layout)}
    whole = {"bundle": str(result.path), **layout, **result.report}
    problem = print_answer(json_text(whole) if args.json else _summary(result))
    result.check_complete()
    if problem is not None:
        raise ExportError(f"{result.path} is complete, but standard output does not take the report: {problem}")
    if args.push is not None:
        from exporter.publishing.push import push_after_export

        push_after_export(result.path, args.push)
    return 0


def _summary(result: Any) -> str:
    """Format the summary of an export: sizes, parity, accuracy, and the parts that stay in higher precision."""
    from engines.verification.rough_inputs import describe
    from exporter.gate.evaluate import lines as accuracy_lines

    manifest = result.manifest
    size = sum(file.stat().st_size for file in result.path.rglob("*") if file.is_file())
    lines = [f"{result.path}  ({size / 1e6:.0f} MB, {manifest.precision})"]
    for engine in manifest.engines:
        if engine.build is not None:
            megabytes = manifest.files[engine.file].bytes / 1e6
            blocks = engine.build.fused_attention + engine.build.decomposed_attention
            lines.append(
                f"  {engine.kind:<12} {engine.tower:<6} {engine.target.device}: {megabytes:.0f} MB, built in "
                f"{engine.build.seconds:.1f} s, {engine.build.fused_attention} of {blocks} attention blocks fused"
            )
    for row in manifest.parity:
        if not row.engine_ran:
            lines.append(
                f"  {row.engine:<12} not run here: ONNX Runtime ran its graph; settle it with python -m engines verify"
            )
        for tower, parity in row.towers.items():
            lines.append(
                f"  {row.engine:<12} {tower:<6} min cosine {parity.min_cosine:.6f}  mean {parity.mean_cosine:.6f}  "
                f"max abs error {parity.max_abs_error:.1e}  ({parity.samples} samples)"
            )
        if row.top1_agreement is not None:
            lines.append(f"  {row.engine:<12} top-1 agreement with eager {row.top1_agreement:.1%}")
        lines += [f"  {row.engine:<12} {line}" for line in describe(row)]
        if row.accuracy_loss_allowed:
            lines.append(f"  {row.engine:<12} FAILED the gate; kept because of --allow-accuracy-loss")
    lines += accuracy_lines(manifest.accuracy)
    if not manifest.accuracy and manifest.precision in QUANTIZED:
        lines.append(
            "  the task's accuracy was not measured: pass --evaluate with labelled pictures, where the engine can run"
        )
    for name, tower in manifest.towers.items():
        if tower.quantization is not None:
            quantization = tower.quantization
            lines.append(
                f"  {name:<12} {quantization.share:.1%} of the products' FLOPs in {quantization.dtype} "
                f"({quantization.layers} layers; ranges of {quantization.samples} samples: {quantization.calibration})"
            )
            lines += [f"  {name} {layer} stays in high precision: {why}" for layer, why in quantization.kept.items()]
        for unit, why in tower.fp32_units.items():
            lines.append(f"  {name} {unit} stays in float32: {why}")
    if result.layout is not None:
        lines.append(f"{result.layout}  (for Optimum and transformers.js)")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
