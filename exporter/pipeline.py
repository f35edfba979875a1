"""The whole way: a model's name in, a verified bundle on disk out."""

from __future__ import annotations

import gc
import importlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec
import numpy as np

from engines.manifest import (
    SCHEMA_VERSION,
    Engine,
    Manifest,
    Parity,
    TextLength,
    Tokenizer,
    Tower,
    TowerName,
    TowerParity,
)
from exporter.errors import ExportError, ParityGateError
from exporter.stages import Stages

if TYPE_CHECKING:
    from exporter.onnx_graph import OnnxGraph
    from exporter.parity import Reference
    from exporter.parity_data import ParityData
    from exporter.precision import Precision
    from exporter.probe import Probe
    from exporter.source import Source
    from exporter.towers import ImageInput, TowerModule

# Kind of an engine to the module that builds it.
ENGINES = {"onnxruntime": "exporter.build_onnxruntime"}
TOWERS: tuple[TowerName, ...] = get_args(TowerName)

_REFERENCE_NAME = "reference.npz"
_REFERENCE_BYTES = 4_000_000
_REFERENCE_SAMPLES = 32
_PROBE_SAMPLES = 16
_PARITY_IMAGES = 64
_PACKAGES = (
    "openclip-engines",
    "torch",
    "open_clip_torch",
    "timm",
    "transformers",
    "onnx",
    "onnxscript",
    "onnxruntime",
)


@dataclass(frozen=True)
class Options:
    """What an export was asked for; see `export` for each."""

    name: str
    pretrained: str | None = None
    precision: str = "fp32"
    engines: tuple[str, ...] = ("auto",)
    towers: tuple[TowerName, ...] = TOWERS
    image_input: ImageInput = "uint8"
    parity_data: Path | None = None
    parity_samples: int | None = None
    allow_accuracy_loss: bool = False
    keep_activation: bool = False
    out: Path | None = None
    force: bool = False
    cache_dir: Path | None = None


@dataclass
class ExportResult:
    """The bundle and the report that was written into it."""

    path: Path
    manifest: Manifest
    report: dict[str, Any]


@dataclass
class _TowerExport:
    """One tower on its way from module to graph."""

    name: TowerName
    reference: Reference
    graph: OnnxGraph
    tower: Tower
    probe: Probe | None


def export(
    name: str,
    *,
    pretrained: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    engines: Sequence[str] = ("auto",),
    towers: Sequence[TowerName] = TOWERS,
    image_input: ImageInput = "uint8",
    parity_data: str | os.PathLike[str] | None = None,
    parity_samples: int | None = None,
    allow_accuracy_loss: bool = False,
    keep_activation: bool = False,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Path:
    """Export a model to a verified bundle.

    Args:
        name: an architecture of ``open_clip.list_models()``, ``hf-hub:org/repo``, ``local-dir:PATH`` or ``demo``.
        pretrained: a tag, a checkpoint file, ``none`` for random weights, or None for the tag with the best published zero-shot
            ImageNet top-1.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        engines: kinds of engines to put into the bundle; ``auto`` is the best one that can be built and verified here.
        towers: ``image``, ``text`` or both.
        image_input: ``uint8`` (pixels, normalized in the graph) or ``float32`` (normalized by the caller).
        parity_data: a folder of images, with an optional captions.txt, for the parity gate; None for pictures that come with
            scikit-image and scikit-learn and open_clip's prompts.
        parity_samples: images for the gate, and twice as many captions; None is 64, or fewer where eager would take minutes.
        allow_accuracy_loss: write the bundle even if the gate fails; the manifest records it.
        keep_activation: the architecture's activation even where the tag was trained with the other one.
        out: the bundle's folder; None is ``<model>--<tag>--<precision>`` in the working directory.
        force: replace a bundle that is there.
        cache_dir: where downloads go.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: what the user can mend.
        ParityGateError: the engine does not give eager's embeddings; nothing is left at `out`.
    """
    options = Options(
        name=name,
        pretrained=None if pretrained is None else os.fspath(pretrained),
        precision=precision,
        engines=tuple(engines),
        towers=tuple(towers),
        image_input=image_input,
        parity_data=None if parity_data is None else Path(parity_data),
        parity_samples=parity_samples,
        allow_accuracy_loss=allow_accuracy_loss,
        keep_activation=keep_activation,
        out=None if out is None else Path(out),
        force=force,
        cache_dir=None if cache_dir is None else Path(cache_dir),
    )
    return run_export(options, Stages()).path


def run_export(options: Options, stages: Stages) -> ExportResult:
    """As `export`, with progress shown by `stages`."""
    from exporter.bundle import BundleWriter
    from exporter.parity_data import load_parity_data

    precision = _precision(options.precision)
    kinds = _engine_kinds(options)
    with stages.stage("load the model") as figures:
        source = _load(options)
        figures["parameters"] = sum(p.numel() for p in source.model.parameters())
    for note in source.notes:
        stages.note(note)
    out = options.out or Path(default_folder(source, options.precision))
    with BundleWriter(out, options.force) as writer:
        with stages.stage("read parity data"):
            images = options.parity_samples if options.parity_samples is not None else _PARITY_IMAGES
            data = load_parity_data(options.parity_data, images=images, captions=2 * images)
        tokenizer = _write_tokenizer(source, options, writer.folder)
        exports = _export_towers(source, options, precision, data, tokenizer, writer.folder, stages)
        engines = tuple(
            importlib.import_module(ENGINES[kind]).build(item.name, item.graph) for kind in kinds for item in exports
        )
        with stages.stage("parity gate"):
            parity = _gate(exports, engines, precision, source, writer.folder)
            _write_reference(writer.folder / _REFERENCE_NAME, exports)
        if not all(row.passed for row in parity):
            _refuse_or_allow(parity, options)
            parity = tuple(msgspec.structs.replace(row, accuracy_loss_allowed=not row.passed) for row in parity)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            model=source.info,
            precision=precision.name,  # type: ignore[arg-type]
            preprocess=source.preprocess,
            tokenizer=tokenizer,
            towers={item.name: item.tower for item in exports},
            engines=engines,
            parity=parity,
            reference=_REFERENCE_NAME,
            created_with=_versions(),
        )
        report = _report(stages, exports, parity, data.source, source)
        with stages.stage("checksums"):
            path = writer.commit(manifest, report)
    return ExportResult(path, manifest, report)


def default_folder(source: Source, precision: str) -> str:
    """``ViT-L-14--datacomp_xl_s13b_b90k--fp16``: what the bundle is, in a folder's name."""
    info = source.info
    tag = info.tag or {"random": "random"}.get(info.source, info.source)
    name = info.architecture if info.source in ("pretrained", "random", "checkpoint") else info.name
    if info.source == "checkpoint":
        tag = Path(info.name).stem
    parts = [name, tag, precision] if tag != name else [name, precision]
    return "--".join(part.replace("/", "-").replace(":", "-") for part in parts)


def _precision(name: str) -> Precision:
    from exporter.precision import PRECISIONS

    if name not in PRECISIONS:
        raise ExportError(f"precision {name!r} is none of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _engine_kinds(options: Options) -> list[str]:
    """The engine kinds to build, checked before anything slow begins."""
    unknown = [tower for tower in options.towers if tower not in TOWERS]
    if unknown or not options.towers:
        raise ExportError(f"towers {', '.join(unknown) or '(none)'}: choose from {', '.join(TOWERS)}")
    kinds = list(dict.fromkeys("onnxruntime" if kind == "auto" else kind for kind in options.engines))
    for kind in kinds:
        if kind not in ENGINES:
            raise ExportError(f"engine {kind!r} is none of auto, {', '.join(ENGINES)}")
        importlib.import_module(ENGINES[kind]).check()
    if not kinds:
        raise ExportError(f"no engine was asked for: choose from auto, {', '.join(ENGINES)}")
    return kinds


def _load(options: Options) -> Source:
    from exporter.source import load_source

    return load_source(
        options.name,
        options.pretrained,
        keep_activation=options.keep_activation,
        cache_dir=options.cache_dir,
        with_tokenizer="text" in options.towers,
    )


def _write_tokenizer(source: Source, options: Options, folder: Path) -> Tokenizer | None:
    if "text" not in options.towers:
        return None
    assert source.tokenizer is not None
    from exporter.tokenizer_json import write_tokenizer

    return write_tokenizer(source.tokenizer, source.text_config, folder / "tokenizer.json")


def _export_towers(
    source: Source,
    options: Options,
    precision: Precision,
    data: ParityData,
    tokenizer: Tokenizer | None,
    folder: Path,
    stages: Stages,
) -> list[_TowerExport]:
    """Eager's reference for all towers first; then one tower at a time, whose modules are consumed on the way."""
    from exporter.parity import image_reference, text_reference
    from exporter.towers import image_tower, text_tower

    references: dict[TowerName, Reference] = {}
    for name in options.towers:
        with stages.stage(f"eager reference, {name}") as figures:
            references[name] = (image_reference if name == "image" else text_reference)(source, data)
            figures["samples"] = len(references[name].inputs)
    model: Any = source.model
    exports = []
    for name in options.towers:
        module: TowerModule
        if name == "image":
            module = image_tower(model, source.preprocess, options.image_input)
            model.visual = None
        else:
            module = text_tower(model)
        exports.append(
            _export_tower(name, module, references[name], options, precision, tokenizer, folder, source, stages)
        )
        del module
        gc.collect()
    return exports


def _export_tower(
    name: TowerName,
    module: TowerModule,
    reference: Reference,
    options: Options,
    precision: Precision,
    tokenizer: Tokenizer | None,
    folder: Path,
    source: Source,
    stages: Stages,
) -> _TowerExport:
    import torch

    from exporter.onnx_graph import example_input, export_graph
    from exporter.parity import tower_batches
    from exporter.precision import apply_plan
    from exporter.probe import probe
    from exporter.text_rules import find_text_length
    from exporter.towers import TextTower

    normalize = source.preprocess if name == "image" and options.image_input == "float32" else None
    length: TextLength | None = None
    if isinstance(module, TextTower):
        assert tokenizer is not None
        with stages.stage("text length rule") as figures:
            length = find_text_length(module, reference.inputs, tokenizer.pad_id)
            figures["rule"] = msgspec.to_builtins(length)
    found: Probe | None = None
    if precision.dtype != torch.float32:
        with stages.stage(f"probe {precision.name}, {name}") as figures:
            part = reference.head(_PROBE_SAMPLES)
            found = probe(module, list(tower_batches(part, normalize)), part.embeds, precision)
            figures |= {"fp32_units": dict(found.plan.fp32_units), "simulated": msgspec.to_builtins(found.simulated)}
            apply_plan(module, found.plan)
    tokens = min(16, length.max) if length is not None and length.keep != "fixed" else (length.max if length else 0)
    with stages.stage(f"export {name} tower") as figures:
        example = example_input(module, source.preprocess.size, tokens)
        graph = export_graph(module, example, folder / f"{name}.onnx", length)
        figures |= {"bytes": graph.bytes, "nodes": sum(graph.operators.values())}
    fp32_units = dict(found.plan.fp32_units) if found is not None else {}
    tower = Tower(graph=graph.path.name, input=graph.input, output=graph.output, length=length, fp32_units=fp32_units)
    return _TowerExport(name, reference, graph, tower, found)


def _gate(
    exports: list[_TowerExport], engines: tuple[Engine, ...], precision: Precision, source: Source, folder: Path
) -> tuple[Parity, ...]:
    """One row per engine kind; for half precisions also the rounding simulation's, on the probe's share of the samples.

    The simulation counts because a host without a GPU computes half-precision graphs in float32: there the engine's own row
    proves the graph and the weights, the simulation's row proves the arithmetic.
    """
    from exporter.parity import judge, run_engine, simulation_row

    references = {item.name: item.reference for item in exports}
    rows = []
    probes: dict[str, TowerParity] = {item.name: item.probe.simulated for item in exports if item.probe is not None}
    if probes:
        rows.append(simulation_row(probes, precision))
    for kind in dict.fromkeys(engine.kind for engine in engines):
        embeds: dict[TowerName, np.ndarray] = {}
        ran = ""
        for item in exports:
            engine = next(e for e in engines if e.kind == kind and e.tower == item.name)
            embeds[item.name], ran = run_engine(
                folder, engine, item.tower, item.reference, source.preprocess, precision
            )
        rows.append(judge(kind, ran, references, embeds, precision.limits))
    return tuple(rows)


def _refuse_or_allow(parity: tuple[Parity, ...], options: Options) -> None:
    if options.allow_accuracy_loss:
        return
    worst = min(
        (row for row in parity if not row.passed), key=lambda row: min(t.min_cosine for t in row.towers.values())
    )
    figures = ", ".join(f"{name} min cosine {tower.min_cosine:.6f}" for name, tower in worst.towers.items())
    agreement = f", top-1 agreement {worst.top1_agreement:.1%}" if worst.top1_agreement is not None else ""
    raise ParityGateError(
        f"the {options.precision} engine {worst.engine} does not give eager PyTorch's embeddings ({figures}{agreement}; "
        f"limits: min cosine {worst.limits.min_cosine}, mean {worst.limits.mean_cosine}, "
        f"top-1 {worst.limits.top1_agreement:.0%}); nothing was written: choose a wider precision, or pass "
        "--allow-accuracy-loss to keep it and have the manifest say so"
    )


def _write_reference(path: Path, exports: list[_TowerExport]) -> None:
    """As many inputs and eager embeddings as fit into the size limit: `python -m engines verify` reads them."""
    names = {"image": ("image_pixels", "image_embeds"), "text": ("text_ids", "text_embeds")}
    count = _REFERENCE_SAMPLES
    while True:
        arrays: dict[str, np.ndarray] = {}
        for item in exports:
            part = item.reference.head(count if item.name == "image" else 2 * _REFERENCE_SAMPLES)
            inputs, embeds = names[item.name]
            arrays |= {inputs: part.inputs, embeds: part.embeds}
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        if path.stat().st_size <= _REFERENCE_BYTES or count <= 2:
            return
        count = max(2, int(count * _REFERENCE_BYTES / path.stat().st_size))


def _report(
    stages: Stages, exports: list[_TowerExport], parity: tuple[Parity, ...], data_source: str, source: Source
) -> dict[str, Any]:
    towers = {}
    for item in exports:
        towers[item.name] = {
            "bytes": item.graph.bytes,
            "operators": dict(sorted(item.graph.operators.items())),
            "passes": item.graph.passes,
            "samples": len(item.reference.inputs),
        }
        if item.probe is not None:
            towers[item.name]["probe"] = {
                "samples": item.probe.samples,
                "largest": item.probe.largest,
                "simulated": msgspec.to_builtins(item.probe.simulated),
                "fp32_units": dict(item.probe.plan.fp32_units),
            }
    return {
        "notes": list(source.notes),
        "parity_data": data_source,
        "stages": stages.rows,
        "towers": towers,
        "parity": msgspec.to_builtins(parity),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["ENGINES", "TOWERS", "ExportResult", "Options", "default_folder", "export", "run_export"]
