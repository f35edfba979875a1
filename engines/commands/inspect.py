"""The command ``python -m engines inspect``: the content of a bundle, and the engines that can run here."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import msgspec

from engines.bundle_files import verify_files
from engines.files.json_text import json_text
from engines.hub.pull import local_bundle, pull_manifest
from engines.hub.reference import is_reference, parse_reference
from engines.manifest import Engine, Manifest, Tensor, read_manifest
from engines.process.tables import format_table
from engines.process.terminal import say, visible
from engines.runtimes.choice import Candidate, candidates
from engines.verification.rough_inputs import describe


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to its parser."""
    parser.add_argument(
        "--full", action="store_true", help="also check every file's sha256 (of a bundle on the hub: download all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Print the bundle's content; of a bundle on the hub only the manifest is downloaded, unless all files shall be checked."""
    folder: Path | None = None
    if is_reference(args.bundle) and not args.full:
        manifest = pull_manifest(parse_reference(args.bundle))
    else:
        folder = Path(local_bundle(args.bundle))
        manifest = read_manifest(folder)
        verify_files(folder, manifest, full=args.full)
    engines_here = {name: candidates(folder, manifest, name) for name in manifest.towers}
    if args.json:
        engines = [
            {
                "tower": name,
                **msgspec.to_builtins(item.engine),
                "runs_here": item.why_not is None,
                "why_not": item.why_not,
            }
            for name, items in engines_here.items()
            for item in items
        ]
        checked = "manifest" if folder is None else "checksums" if args.full else "sizes"
        print(json_text({**msgspec.to_builtins(manifest), "engines": engines, "checked": checked}))
        return 0
    checked = "sizes and checksums are right" if args.full else "sizes are right"
    if folder is None:
        checked = "on the hub, only the manifest was downloaded"
    say(_text(str(folder or args.bundle), manifest, engines_here, checked))
    return 0


def _text(place: str, manifest: Manifest, found: dict[Any, list[Candidate]], checked: str) -> str:
    model, preprocess = manifest.model, manifest.preprocess
    total = sum(file.bytes for file in manifest.files.values())
    tag = f", tag {model.tag}" if model.tag else ""
    activation = "QuickGELU" if model.quick_gelu else "GELU"
    lines = [
        f"{place}  ({total / 1e6:.1f} MB in {len(manifest.files)} files; {checked})",
        f"  model       {model.name}: {model.architecture}{tag}, {activation}, {model.embed_dim} dimensions",
        f"  weights     {'random' if model.weights == 'random' else 'sha256 ' + model.weights[:16] + '…'} ({model.source})",
        f"  precision   {manifest.precision}",
        f"  images      {preprocess.size[0]}x{preprocess.size[1]}, {preprocess.resize_mode}, {preprocess.interpolation}",
    ]
    if model.license is not None:
        source = f" ({model.license_source})" if model.license_source else ""
        lines.insert(3, f"  licence     {model.license}{source}")
    if manifest.tokenizer is not None:
        lines.append(
            f"  texts       up to {manifest.tokenizer.context_length} of {manifest.tokenizer.vocab_size} tokens"
        )
    tables = [_towers(manifest), _engines(found), _parity(manifest)]
    if manifest.accuracy:
        tables.append(_accuracy(manifest))
    # The manifest's texts come from the bundle's maker, who may be anybody: a line break in one must not look like another line.
    return "\n\n".join(["\n".join(map(visible, lines)), *tables])


def _towers(manifest: Manifest) -> str:
    rows = []
    for name, tower in manifest.towers.items():
        length = tower.length
        rule = (
            ""
            if length is None
            else ("fixed length" if length.keep == "fixed" else f"cut at {length.keep}+{length.extra}")
        )
        rows.append((name, _tensor(tower.input), _tensor(tower.output), rule or "-", str(len(tower.fp32_units) or "-")))
    table = format_table(("tower", "input", "output", "texts", "fp32 units"), rows, "  ")
    notes = [
        f"  {name} {unit} stays in float32: {why}"
        for name, tower in manifest.towers.items()
        for unit, why in tower.fp32_units.items()
    ]
    for name, tower in manifest.towers.items():
        found = tower.quantization
        if found is not None:
            notes.append(
                f"  {name}: {found.share:.1%} of the products' FLOPs in {found.dtype}, {found.layers} layers (ranges of "
                f"{found.samples} samples: {found.calibration})"
            )
            notes += [f"  {name} {layer} stays in high precision: {why}" for layer, why in found.kept.items()]
    return "\n".join([table, *map(visible, notes)])


def _tensor(tensor: Tensor) -> str:
    return f"{tensor.name} {tensor.dtype} ({', '.join(map(str, tensor.shape))})"


def _engines(found: dict[Any, list[Candidate]]) -> str:
    rows = []
    for name, items in found.items():
        for item in items:
            target = item.engine.target
            built = " ".join(filter(None, (target.library, target.version, target.device, target.device_compatible)))
            verdict = "yes" if item.why_not is None else f"no: {item.why_not}"
            rows.append((item.engine.kind, name, built, _batches(item.engine), _attention(item.engine), verdict))
    return format_table(("engine", "tower", "built for", "batch", "fused attention", "runs here"), rows, "  ")


def _batches(engine: Engine) -> str:
    if not engine.profiles:
        return "any"
    return " ".join(f"{p.batch.min}:{p.batch.opt}:{p.batch.max}" for p in engine.profiles)


def _attention(engine: Engine) -> str:
    if engine.build is None:
        return "-"
    fused = engine.build.fused_attention
    return f"{fused} of {fused + engine.build.decomposed_attention}"


def _accuracy(manifest: Manifest) -> str:
    rows = []
    for row in manifest.accuracy:
        for name in sorted(row.change):
            change = row.change[name]
            rows.append(
                (
                    row.engine,
                    f"{row.dataset} ({row.samples})",
                    name.replace("_", " "),
                    f"{row.eager[name].value:.2%}",
                    f"{row.figures[name].value:.2%}",
                    f"{100 * change.value:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})",
                    "passed" if row.passed else "FAILED, allowed",
                )
            )
    return format_table(("task", "pictures", "figure", "eager", "engine", "points (95 %)", "gate"), rows, "  ")


def _parity(manifest: Manifest) -> str:
    rows = []
    for row in manifest.parity:
        passed = "passed (float64)" if row.float64 else "passed"
        verdict = passed if row.passed else ("FAILED, allowed" if row.accuracy_loss_allowed else "FAILED")
        agreement = "-" if row.top1_agreement is None else f"{row.top1_agreement:.1%}"
        for name, tower in row.towers.items():
            cosines = (f"{tower.min_cosine:.6f}", f"{tower.mean_cosine:.6f}", f"{tower.max_abs_error:.1e}")
            rows.append((row.engine, name, *cosines, agreement, verdict, row.verified_with))
    header = ("parity", "tower", "min cosine", "mean", "max error", "top-1", "gate", "measured with")
    float64_notes = [f"  {row.engine}, {line}" for row in manifest.parity for line in describe(row)]
    return "\n".join([format_table(header, rows, "  "), *map(visible, float64_notes)])
