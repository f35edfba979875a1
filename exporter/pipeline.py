"""The whole way: a model's name in, a verified bundle on disk out."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engines.manifest import SCHEMA_VERSION, Engine, Kernels, Manifest, Tokenizer, TowerName, read_manifest
from exporter.builders.built import missed
from exporter.builders.registry import (
    build_engines,
    can_run,
    check_precision,
    engine_kinds,
    program_plan,
    quantized_defaults,
    runs_on_cpu,
)
from exporter.errors import ExportError, IncompleteBundleError, LeftOut
from exporter.options.engine_options import EngineOptions
from exporter.options.export_options import TOWERS, Options
from exporter.stages import Stages
from exporter.versions import package_versions

if TYPE_CHECKING:
    from exporter.datasets.calibration import Calibration
    from exporter.exported_tower import TowerExport
    from exporter.options.export_options import ImageInputDtype
    from exporter.precision.precisions import Precision
    from exporter.source.loading import Source
    from exporter.tower_export import Graphs

CALIBRATION_NAME = "calibration.npy"  # decoded pictures, until the towers are exported
_REFERENCE_NAME = "reference.npz"
_PROGRAMS = ".programs"  # towers as AOTInductor reads them, until it has
_PARITY_IMAGES = 64


@dataclass
class ExportResult:
    """The bundle and the report that was written into it.

    Attributes:
        path: the bundle's folder.
        manifest: of the bundle.
        report: what ``report.json`` holds.
        missed: engines that were asked for and could not be built; empty for a whole bundle.
    """

    path: Path
    manifest: Manifest
    report: dict[str, Any]
    missed: tuple[LeftOut, ...] = ()

    def check_complete(self) -> None:
        """Raise `IncompleteBundleError`, which names the bundle and what it lacks, if it lacks anything."""
        if self.missed:
            raise IncompleteBundleError(self.path, self.missed)


def export(
    name: str,
    *,
    pretrained: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    engines: Sequence[str] = ("auto",),
    towers: Sequence[TowerName] = TOWERS,
    image_input: ImageInputDtype = "uint8",
    parity_data: str | os.PathLike[str] | None = None,
    parity_samples: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    calibration_captions: str | os.PathLike[str] | None = None,
    calibration_samples: int | None = None,
    evaluate: str | os.PathLike[str] | None = None,
    allow_accuracy_loss: bool = False,
    keep_activation: bool = False,
    out: str | os.PathLike[str] | None = None,
    force: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
    engine_options: EngineOptions | None = None,
) -> Path:
    """Export a model to a verified bundle.

    The arguments are the fields of `exporter.options.export_options.Options`, which also describes them for the command line.

    Args:
        name: an architecture of ``open_clip.list_models()``, ``hf-hub:org/repo``, ``local-dir:PATH`` or ``demo``.
        pretrained: a tag, a checkpoint file, ``none`` for random weights, or None for the best published tag with a permissive
            licence.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``.
        engines: kinds of engines to put into the bundle; ``auto`` is the best one that can be built and verified here. If one of
            several cannot be built, the bundle is written without it, and an error says so.
        towers: ``image``, ``text`` or both.
        image_input: ``uint8`` (pixels, normalized in the graph) or ``float32`` (normalized by the caller).
        parity_data: a folder of images, with an optional captions.txt, for the parity gate; None for pictures that come with
            scikit-image and scikit-learn and open_clip's prompts.
        parity_samples: images for the gate, and twice as many captions; None is 64, or fewer where eager would take minutes.
        calibration: for int8 and fp8, at least 128 images like those to be embedded: a folder, a webdataset ``.tar`` (or a folder
            of them), or a text file of paths; a folder's captions.txt is used, too. `demo` has pictures of its own.
        calibration_captions: a text file, one caption a line; None: captions.txt of the folder, or open_clip's prompts.
        calibration_samples: images to take ranges from; None is 512.
        evaluate: labelled images (a folder with one folder for each class, or a webdataset) or images with captions, on which eager
            and the engines are compared; the loss of accuracy is part of the gate. None: the task is not measured (`demo` has its
            own set for int8 and fp8).
        allow_accuracy_loss: write the bundle even if the gate fails; the manifest records it.
        keep_activation: the architecture's activation even where the tag was trained with the other one.
        out: the bundle's folder; None is ``<model>--<tag>--<precision>`` in the working directory.
        force: replace a bundle that is there.
        cache_dir: where downloads go.
        engine_options: targets, batch sizes and builder options of engines that are built: TensorRT's and AOTInductor's.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: what the user can mend.
        IncompleteBundleError: the bundle was written, and lacks an engine that was named; the error's `path` is the bundle.
        ParityGateError: the engine does not give eager's embeddings; nothing is left at `out`.
    """
    options = Options(**{option: value for option, value in locals().items() if value is not None})
    result = run_export(options, Stages())
    result.check_complete()
    return result.path


def run_export(options: Options, stages: Stages) -> ExportResult:
    """As `export`, with progress shown by `stages`; an engine that the bundle lacks is in the result, and raises nothing."""
    from exporter.bundle import BundleWriter, check_destination
    from exporter.gate.evaluate import evaluate_eager, evaluate_engines, open_evaluation
    from exporter.gate.evaluate import refusal as evaluation_refusal
    from exporter.gate.float64_gate import Float64Gate
    from exporter.gate.gate import make_report, run_gate, write_reference
    from exporter.gate.refusal import finite, refusal
    from exporter.reference.captions import caption_arrays
    from exporter.reference.float64_eager import Float64Eager
    from exporter.reference.parity_data import load_parity_data
    from exporter.tower_export import export_towers

    precision = _precision(options.precision)
    _check_towers(options)
    asked, engine_options = quantized_defaults(options.engines, options.engine_options, precision, stages)
    kinds, refused = engine_kinds(asked, engine_options, stages)
    check_precision(kinds, engine_options, precision)
    calibration = _calibration(options, precision)
    dataset = open_evaluation(
        options.evaluate, options.name == "demo" and precision.quantized is not None, options.towers
    )
    if dataset is not None and not any(can_run(kind) for kind in kinds):
        if options.evaluate is not None:
            stages.note(f"none of the engines {', '.join(kinds)} can run here: the task is not measured")
        dataset = None
    if options.out is not None:
        check_destination(options.out, options.force)  # before anything slow
    with stages.stage("load the model") as figures:
        source = _load(options)
        figures["parameters"] = sum(p.numel() for p in source.model.parameters())
    stages.tell(source, calibration, dataset)
    out = options.out or Path(default_folder(source, options.precision))
    with BundleWriter(out, options.force) as writer:
        with stages.stage("read parity data"):
            images = options.parity_samples if options.parity_samples is not None else _PARITY_IMAGES
            data = load_parity_data(options.parity_data, images=images, captions=2 * images)
            stages.tell(data)
        tokenizer = _write_tokenizer(source, options, writer.folder)
        evaluation = None
        if dataset is not None:
            with stages.stage("evaluate eager"):
                evaluation = evaluate_eager(source, dataset)
        graphs = None
        if calibration is not None:
            with stages.stage("read calibration data") as figures:
                graphs = _graphs(calibration, kinds, engine_options, options, source, writer.folder, stages)
                figures["images"] = 0 if graphs.inputs.pixels is None else len(graphs.inputs.pixels)
        exports = export_towers(
            source,
            tuple(t for t in TOWERS if t in options.towers),
            options.image_input,
            precision,
            data,
            tokenizer,
            writer.folder,
            stages,
            program_plan(kinds, engine_options, writer.folder / _PROGRAMS),
            graphs,
        )
        del graphs
        (writer.folder / CALIBRATION_NAME).unlink(missing_ok=True)
        built = build_engines(kinds, exports, writer.folder, engine_options, stages)
        shutil.rmtree(writer.folder / _PROGRAMS, ignore_errors=True)
        with stages.stage("parity gate"):
            references = {item.name: item.reference for item in exports}
            float64 = Float64Gate(Float64Eager(lambda: _load(options), source.info.weights, data, references))
            parity, built = run_gate(exports, built, precision, source, writer.folder, stages, float64)
            engines = built.engines
            failed = (dataclasses.replace(item, named=item.kind in options.engines) for item in built.left_out)
            left_out = (*refused, *failed)
            captions = {}
            if tokenizer is not None and source.tokenizer is not None:
                captions = caption_arrays(source.tokenizer, writer.folder, tokenizer)
            write_reference(writer.folder / _REFERENCE_NAME, exports, source.preprocess, float64, captions)
        if not all(row.passed for row in parity):
            if not options.allow_accuracy_loss or not all(map(finite, parity)):
                raise refusal(parity, precision.name, float64.findings)
            parity = tuple(msgspec.structs.replace(row, accuracy_loss_allowed=not row.passed) for row in parity)
        manifest = Manifest(
            schema_version=SCHEMA_VERSION,
            model=source.info,
            precision=precision.name,
            preprocess=source.preprocess,
            tokenizer=tokenizer,
            towers={item.name: item.tower for item in exports},
            engines=engines,
            parity=parity,
            reference=_REFERENCE_NAME,
            kernels=_kernels(exports, engines),
            created_with=package_versions(),
        )
        if evaluation is not None:
            with stages.stage("evaluate engines"):
                folder = writer.preview(manifest)
                rows = evaluate_engines(folder, engines, precision, source.preprocess, evaluation)
            if not all(row.passed for row in rows) and not options.allow_accuracy_loss:
                raise evaluation_refusal(rows, precision.name)
            manifest = msgspec.structs.replace(manifest, accuracy=rows)
        report = make_report(stages, exports, parity, data.source, source)
        report["left_out"] = [dataclasses.asdict(item) for item in left_out]
        with stages.stage("checksums"):
            path = writer.commit(manifest, report)
    missing = missed(left_out, engines, [item.name for item in exports])
    return ExportResult(path, read_manifest(path), report, missing)


def default_folder(source: Source, precision: str) -> str:
    """``ViT-L-14--datacomp_xl_s13b_b90k--fp16``: what the bundle is, in a folder's name."""
    info = source.info
    tag = info.tag or {"random": "random"}.get(info.source, info.source)
    name = info.architecture if info.source in ("pretrained", "random", "checkpoint") else info.name
    if info.source == "checkpoint":
        tag = Path(info.name).stem
    parts = [name, tag, precision] if tag != name else [name, precision]
    return "--".join(part.replace("/", "-").replace(":", "-") for part in parts)


def _calibration(options: Options, precision: Precision) -> Calibration | None:
    """What a quantized precision is calibrated with, checked early; None for other precisions."""
    if precision.quantized is None:
        for flag, value in (
            ("--calibration", options.calibration),
            ("--calibration-captions", options.calibration_captions),
            ("--calibration-samples", options.calibration_samples),
        ):
            if value is not None:
                raise ExportError(f"{flag} is for --int8 and --fp8: {precision.name} takes no ranges from data")
        return None
    from exporter.datasets.calibration import LEAST_IMAGES, open_calibration

    if options.calibration_samples is not None and options.calibration_samples < LEAST_IMAGES:
        raise ExportError(f"{options.calibration_samples} calibration images are too few: at least {LEAST_IMAGES}")
    return open_calibration(
        options.calibration, options.calibration_captions, options.name == "demo", "image" in options.towers
    )


def _graphs(
    calibration: Calibration,
    kinds: Sequence[str],
    engine_options: EngineOptions,
    options: Options,
    source: Source,
    folder: Path,
    stages: Stages,
) -> Graphs:
    """Which graphs a quantized bundle needs, and the calibration data read."""
    import numpy as np

    from exporter.datasets.calibration import RECOMMENDED_IMAGES, decode_images
    from exporter.quantization.for_export import QuantizationInputs
    from exporter.tower_export import Graphs

    pixels, pixels_source = None, ""
    if "image" in options.towers:
        count = options.calibration_samples or RECOMMENDED_IMAGES
        images = decode_images(calibration, source.preprocess, count, folder)
        pixels, pixels_source = images.pixels, f"{len(images.pixels)} images of {calibration.name}"
        if images.skipped or images.blank:
            stages.note(
                f"calibration images left out: {images.skipped} cannot be read"
                f"{f' ({images.first_skipped})' if images.first_skipped else ''}, {images.blank} of one colour"
            )
        if len(pixels) < RECOMMENDED_IMAGES and options.calibration_samples is None:
            stages.note(f"calibration with {len(pixels)} images; {RECOMMENDED_IMAGES} are recommended")
    ids = None
    if "text" in options.towers:
        assert source.tokenizer is not None
        ids = source.tokenizer(list(calibration.captions)).numpy().astype(np.int32)
    inputs = QuantizationInputs(pixels, pixels_source, ids, calibration.captions_source)
    on_cpu = [runs_on_cpu(kind, kinds, engine_options) for kind in kinds]
    return Graphs(cpu=any(on_cpu), gpu=not all(on_cpu), inputs=inputs)


def _precision(name: str) -> Precision:
    from exporter.precision.precisions import PRECISIONS

    if name not in PRECISIONS:
        raise ExportError(f"precision {name!r} is none of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _check_towers(options: Options) -> None:
    unknown = [tower for tower in options.towers if tower not in TOWERS]
    if unknown or not options.towers:
        raise ExportError(f"towers {', '.join(unknown) or '(none)'}: choose from {', '.join(TOWERS)}")


def _load(options: Options) -> Source:
    from exporter.gate.finite import check_weights
    from exporter.source.loading import load_source

    source = load_source(
        options.name,
        options.pretrained,
        keep_activation=options.keep_activation,
        cache_dir=options.cache_dir,
        with_tokenizer="text" in options.towers,
    )
    check_weights(source.model, options.towers, f"the checkpoint of {source.info.name}")
    return source


def _write_tokenizer(source: Source, options: Options, folder: Path) -> Tokenizer | None:
    if "text" not in options.towers:
        return None
    assert source.tokenizer is not None
    from exporter.source.tokenizer_json import write_tokenizer

    return write_tokenizer(source.tokenizer, source.text_config, folder / "tokenizer.json")


def _kernels(exports: Sequence[TowerExport], engines: Sequence[Engine]) -> Kernels:
    """Fused modules in AOTInductor's packages, all towers together that have one."""
    packaged = {engine.tower for engine in engines if engine.kind == "aotinductor"}
    reports = [item.swapped for item in exports if item.swapped is not None and item.name in packaged]
    if not reports:
        return Kernels()
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.swapped)
    return Kernels(mode=reports[0].mode, swapped=dict(total))


__all__ = ["ExportResult", "Options", "default_folder", "export", "run_export"]
