"""``python -m exporter MODEL``: the command line."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.errors import ExportError
from exporter.requirements import run_command
from exporter.standard_output import print_answer, standard_output_is_ours

if TYPE_CHECKING:
    from exporter.engine_options import EngineOptions

_EPILOG = """\
exit codes: 0 done; 1 something you can mend, said in one line; 3 the parity gate failed and nothing was written.
Where an engine that was named cannot be built and others can, the bundle is written with the others, lines that
begin with "left out: " say why, and the exit code is 1.

examples:
  python -m exporter demo --out demo-bundle
  python -m exporter ViT-L-14 --fp16
  python -m exporter ViT-B-32 --pretrained weights.safetensors --parity-data photos/
  python -m exporter --list 'ViT-*'
"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m exporter",
        description="Export an OpenCLIP model to a verified bundle that serves without PyTorch.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "model", nargs="?", metavar="MODEL", help="architecture, hf-hub:org/repo, local-dir:PATH or demo"
    )
    parser.add_argument("--list", nargs="?", const="*", metavar="PATTERN", help="list models and their tags, and stop")
    parser.add_argument(
        "--pretrained",
        metavar="TAG|PATH|none",
        help="tag, checkpoint file, or none for random weights (default: the best published tag with a permissive licence)",
    )
    precision = parser.add_mutually_exclusive_group()
    for name, text in (
        ("fp32", "the default"),
        ("fp16", ""),
        ("bf16", ""),
        ("int8", "int8 linear layers; needs --calibration"),
        ("fp8", "float8 linear layers for sm89 and newer; needs --calibration"),
    ):
        precision.add_argument(
            f"--{name}", dest="precision", action="store_const", const=name, help=text or f"{name} graphs"
        )
    parser.add_argument(
        "--engine",
        action="append",
        metavar="NAME",
        dest="engines",
        help="tensorrt, tensorrt-rtx, aotinductor, onnxruntime, openvino or auto (default: tensorrt beside a GPU, else "
        "onnxruntime; for int8 tensorrt-rtx for sm80, too, where it is installed); repeatable",
    )
    _add_engine_options(parser.add_argument_group("engines that are built (aotinductor takes --target and --batch)"))
    parser.add_argument("--towers", default="image,text", metavar="NAMES", help="image,text (default), image or text")
    parser.add_argument(
        "--image-input",
        choices=("uint8", "float32"),
        default="uint8",
        help="uint8: NHWC pixels, normalized in the graph (default); float32: normalized NCHW",
    )
    parser.add_argument("--parity-data", metavar="DIR", help="images, and optionally captions.txt, for the parity gate")
    parser.add_argument(
        "--parity-samples", type=int, metavar="N", help="images for the gate (default: 64, fewer if slow)"
    )
    quantization = parser.add_argument_group("int8 and fp8")
    quantization.add_argument(
        "--calibration",
        metavar="DIR|FILE",
        help="images like those to be embedded, at least 128: a folder, a webdataset .tar, or a text file of paths",
    )
    quantization.add_argument(
        "--calibration-captions",
        metavar="FILE",
        help="texts, one a line (default: captions.txt in the folder, or open_clip's prompts)",
    )
    quantization.add_argument(
        "--calibration-samples", type=int, metavar="N", help="images to take ranges from (default: 512)"
    )
    parser.add_argument(
        "--evaluate",
        metavar="DIR|FILE",
        help="labelled images (a folder for each class, or a webdataset): the gate also compares the task's accuracy with eager's",
    )
    parser.add_argument(
        "--allow-accuracy-loss",
        action="store_true",
        help="write the bundle even if the gate fails, and record it; not where an engine gives NaN or infinity",
    )
    parser.add_argument(
        "--keep-activation",
        action="store_true",
        help="keep the architecture's activation where the tag was trained with the other one",
    )
    parser.add_argument("--out", metavar="DIR", help="the bundle's folder (default: MODEL--TAG--PRECISION)")
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")
    parser.add_argument("--cache-dir", metavar="DIR", help="where checkpoints are kept")
    parser.add_argument("--json", action="store_true", help="print one JSON object with every stage's figures")
    parser.set_defaults(precision="fp32")
    return parser


def _add_engine_options(group: argparse._ArgumentGroup) -> None:
    """What `exporter.engine_options.EngineOptions` holds."""
    group.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="SM",
        help="GPU architecture, as in sm80, or cpu for aotinductor; repeatable (default: the GPU here, for aotinductor else the "
        "CPU; tensorrt-rtx builds for any without it)",
    )
    group.add_argument(
        "--batch",
        action="append",
        metavar="MIN:OPT:MAX",
        help="batch sizes of an optimization profile; repeatable (default: 1:32:128)",
    )
    group.add_argument("--workspace", metavar="SIZE", help="most device memory for a layer's scratch, as in 4GiB")
    group.add_argument(
        "--optimization-level", type=int, metavar="0-5", help="0 builds fastest, 5 searches longest (default: 3)"
    )
    group.add_argument(
        "--timing-cache", metavar="FILE", help="kernel times kept between builds (default: one in ~/.cache)"
    )
    group.add_argument(
        "--version-compatible",
        action="store_true",
        help="the engine also runs with later TensorRT versions; may be slower",
    )
    group.add_argument(
        "--hardware-compatible",
        choices=("ampere+", "same-compute-capability"),
        help="the engine also runs on other GPUs; slower",
    )
    group.add_argument(
        "--kernels",
        choices=("auto", "triton", "native"),
        default="auto",
        help="this project's Triton kernels in aotinductor's packages: those that measured faster on the target, all, or none",
    )
    group.add_argument(
        "--strip-weights",
        action="store_true",
        help="engines without weights, which are taken from the ONNX graph when they are loaded",
    )


def _engine_options(args: argparse.Namespace) -> EngineOptions:
    from exporter.engine_options import DEFAULT_BATCHES, EngineOptions, parse_batches, parse_bytes

    return EngineOptions(
        targets=tuple(target.lower() for target in args.target),
        batches=parse_batches(args.batch) if args.batch else DEFAULT_BATCHES,
        workspace=None if args.workspace is None else parse_bytes(args.workspace),
        optimization_level=args.optimization_level,
        timing_cache=None if args.timing_cache is None else Path(args.timing_cache),
        version_compatible=args.version_compatible,
        kernels=args.kernels,
        hardware_compatible=args.hardware_compatible,
        strip_weights=args.strip_weights,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    if args.list is None and args.model is None:
        parser.error("name a MODEL, or pass --list")
    return run_command(lambda: _list(args.list) if args.list is not None else _export(args))


def _list(pattern: str) -> int:
    from exporter.source.model_list import format_models, list_models

    rows = list_models(pattern)
    with contextlib.suppress(BrokenPipeError):
        print(format_models(rows))
    return 0


def _export(args: argparse.Namespace) -> int:
    from engines.files.json_text import json_text
    from exporter.pipeline import Options, run_export
    from exporter.stages import Stages

    options = Options(
        name=args.model,
        pretrained=args.pretrained,
        precision=args.precision,
        engines=tuple(args.engines or ("auto",)),
        towers=tuple(name.strip() for name in args.towers.split(",") if name.strip()),
        image_input=args.image_input,
        parity_data=None if args.parity_data is None else Path(args.parity_data),
        parity_samples=args.parity_samples,
        calibration=None if args.calibration is None else Path(args.calibration),
        calibration_captions=None if args.calibration_captions is None else Path(args.calibration_captions),
        calibration_samples=args.calibration_samples,
        evaluate=None if args.evaluate is None else Path(args.evaluate),
        allow_accuracy_loss=args.allow_accuracy_loss,
        keep_activation=args.keep_activation,
        out=None if args.out is None else Path(args.out),
        force=args.force,
        cache_dir=None if args.cache_dir is None else Path(args.cache_dir),
        engine_options=_engine_options(args),
    )
    stages = Stages(sys.stderr)
    with stages.interruptible(), standard_output_is_ours():
        result = run_export(options, stages)
    whole = {"bundle": str(result.path), **result.report}
    problem = print_answer(json_text(whole) if args.json else _summary(result))
    result.check_complete()
    if problem is not None:
        raise ExportError(f"{result.path} is complete, but standard output does not take the report: {problem}")
    return 0


def _summary(result: Any) -> str:
    """What a person wants to know after an export."""
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
    if not manifest.accuracy and manifest.precision in ("int8", "fp8"):
        lines.append(
            "  the task's accuracy was not measured: pass --evaluate with labelled pictures, where the engine can run"
        )
    for name, tower in manifest.towers.items():
        if tower.quantization is not None:
            found = tower.quantization
            lines.append(
                f"  {name:<12} {found.share:.1%} of the products' FLOPs in {found.dtype} ({found.layers} layers; ranges of "
                f"{found.samples} samples: {found.calibration})"
            )
            lines += [f"  {name} {layer} stays in high precision: {why}" for layer, why in found.kept.items()]
        for unit, why in tower.fp32_units.items():
            lines.append(f"  {name} {unit} stays in float32: {why}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
