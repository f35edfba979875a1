"""The pipeline of an export, from a model's name to a verified bundle on disk.

`exporter.request` checks the options and loads the model; each step below makes the input of the next one.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from engines.manifest import SCHEMA_VERSION, Engine, Kernels, Manifest, Parity, Tokenizer, TowerName, read_manifest
from exporter.builders.built import Built, missed
from exporter.builders.registry import build_engines, program_plan
from exporter.errors import LeftOut
from exporter.export_result import ExportResult
from exporter.options.engine_options import EngineOptions
from exporter.options.export_options import DEFAULT_OPSET, TOWERS, ImageInputDtype, Layout, Options
from exporter.request import Request, check_request, default_folder, load_model, parity_counts
from exporter.stages import Stages
from exporter.versions import package_versions

if TYPE_CHECKING:
    from exporter.exported_tower import TowerExport
    from exporter.gate.evaluate import Evaluation
    from exporter.reference.parity_data import ParityData
    from exporter.source.loading import Source
    from exporter.tower_export import Graphs

_REFERENCE_NAME = "reference.npz"
_PROGRAMS = ".programs"  # the towers' programs for AOTInductor, until the engines are built


def export(
    name: str,
    *,
    pretrained: str | os.PathLike[str] | None = None,
    precision: str = "fp32",
    engines: Sequence[str] = ("auto",),
    towers: Sequence[TowerName] = TOWERS,
    image_input: ImageInputDtype = "uint8",
    opset: int = DEFAULT_OPSET,
    parity_data: str | os.PathLike[str] | None = None,
    parity_samples: int | None = None,
    calibration: str | os.PathLike[str] | None = None,
    calibration_captions: str | os.PathLike[str] | None = None,
    calibration_samples: int | None = None,
    evaluate: str | os.PathLike[str] | None = None,
    allow_accuracy_loss: bool = False,
    keep_activation: bool = False,
    out: str | os.PathLike[str] | None = None,
    layout: Layout | None = None,
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
        engines: the kinds of engines to put into the bundle; ``auto`` is the best one that can be built and verified here. If one
            of several cannot be built, the bundle is written without it, and an error reports it.
        towers: ``image``, ``text`` or both.
        image_input: ``uint8`` (pixels, normalized in the graph) or ``float32`` (normalized by the caller).
        opset: the opset of the ONNX graphs, 18 to 23; an older one is for older runtimes and other importers.
        parity_data: a folder of images, with an optional captions.txt, for the parity gate; None for pictures that come with
            scikit-image and scikit-learn and open_clip's prompts.
        parity_samples: the number of images for the gate, which gets twice as many captions; None is 64, or fewer where eager would
            take minutes.
        calibration: at least 128 images like those to be embedded, for int8 and fp8: a folder, a webdataset ``.tar`` (or a folder
            of them), or a text file of paths; a folder's captions.txt is used, too. `demo` has pictures of its own.
        calibration_captions: a text file, one caption a line; None: the folder's captions.txt, or open_clip's prompts.
        calibration_samples: the number of images from which ranges are taken; None is 512.
        evaluate: labelled images (a folder with one folder for each class, or a webdataset) or images with captions, on which eager
            and the engines are compared; the loss of accuracy is part of the gate. None: the task is not measured (`demo` has its
            own set for int8 and fp8).
        allow_accuracy_loss: whether to write the bundle even if the gate fails; the manifest records it.
        keep_activation: whether to keep the architecture's activation even where the tag was trained with the other one.
        out: the bundle's folder; None is ``<model>--<tag>--<precision>`` in the working directory.
        layout: ``transformers`` also writes ``<out>--transformers``, a folder that Optimum and transformers.js load.
        force: whether to replace an existing bundle, and its layout.
        cache_dir: the folder for downloads.
        engine_options: the targets, batch sizes and builder options of engines that are built: TensorRT's and AOTInductor's.

    Returns:
        The bundle's folder.

    Raises:
        ExportError: a problem that the user can mend.
        IncompleteBundleError: the bundle was written, and lacks an engine that was named; the error's `path` is the bundle.
        ParityGateError: an engine's embeddings differ too much from eager's; nothing is left at `out`.
    """
    given = dict(locals())  # before anything else has a name
    options = Options(**{option: value for option, value in given.items() if value is not None})
    result = run_export(options, Stages())
    result.check_complete()
    return result.path


def run_export(options: Options, stages: Stages) -> ExportResult:
    """Export as `export` does, with progress shown by `stages`; missing engines are in the result and raise no error."""
    from exporter.bundle import BundleWriter
    from exporter.errors import ExportError
    from exporter.layouts.support import check_config, check_supported
    from exporter.layouts.transformers import layout_folder, write_layout

    # Libraries that are broken are found here, before downloads and minutes of work.
    importlib.import_module("exporter.tower_export")
    importlib.import_module("exporter.gate.gate")
    request = check_request(options, stages)
    with stages.stage("load the model", "load") as figures:
        source = load_model(options)
        figures["parameters"] = sum(p.numel() for p in source.model.parameters())
    stages.tell(source, request.calibration, request.dataset)
    out = options.out or Path(default_folder(source, options.precision))
    layout = layout_folder(out, options.layout, options.force)
    if layout is not None:
        info = source.info
        check_config(info.name, info.architecture, source.text_config, info.logit_bias is not None, source.preprocess)
    with BundleWriter(out, options.force) as writer:
        export = _Export(request, source, writer.folder, stages)
        data = export.read_parity_data()
        tokenizer = export.write_tokenizer()
        evaluation = export.evaluate_eager()
        towers = export.export_towers(data, tokenizer)
        built = build_engines(request.kinds, towers, writer.folder, request.engine_options, stages)
        shutil.rmtree(writer.folder / _PROGRAMS, ignore_errors=True)
        parity, built = export.judge(towers, built, data, tokenizer)
        manifest = export.manifest(towers, built, parity, tokenizer)
        if evaluation is not None:
            manifest = export.evaluate_engines(evaluation, writer.preview(manifest), manifest)
        named = (dataclasses.replace(item, named=item.kind in options.engines) for item in built.left_out)
        left_out = (*request.refused, *named)
        report = export.report(towers, parity, data, left_out)
        with stages.stage("checksums", "checksums"):
            path = writer.commit(manifest, report)
    if layout is not None:
        try:
            check_supported(manifest)
            with stages.stage(f"layout for {options.layout}", "layout"):
                write_layout([path], layout, force=options.force, note=stages.note)
        except ExportError as error:
            raise ExportError(f"{path} is complete, but {error}") from None
    missing = missed(left_out, built.engines, [item.name for item in towers])
    return ExportResult(path, read_manifest(path), report, missing, layout)


@dataclass(frozen=True)
class _Export:
    """The steps of one export, in the order in which `run_export` takes them.

    Attributes:
        request: the checked options.
        source: the model; `export_towers` takes its towers out of it.
        folder: the bundle's folder while it is written.
        stages: the display and timer of the steps.
    """

    request: Request
    source: Source
    folder: Path
    stages: Stages

    def read_parity_data(self) -> ParityData:
        """Read the gate's pictures and captions, twice as many captions as pictures."""
        from exporter.reference.parity_data import load_parity_data

        options = self.request.options
        with self.stages.stage("read parity data", "data"):
            data = load_parity_data(options.parity_data, *parity_counts(options))
            self.stages.tell(data)
        return data

    def write_tokenizer(self) -> Tokenizer | None:
        """Write the tokenizer's file and return its entry in the manifest; None where no text tower is exported."""
        if "text" not in self.request.towers:
            return None
        assert self.source.tokenizer is not None
        from exporter.source.tokenizer_json import write_tokenizer

        return write_tokenizer(self.source.tokenizer, self.source.text_config, self.folder / "tokenizer.json")

    def evaluate_eager(self) -> Evaluation | None:
        """Measure eager's accuracy on the task; None where the task is not measured."""
        from exporter.gate.evaluate import evaluate_eager

        if self.request.dataset is None:
            return None
        with self.stages.stage("evaluate eager", "evaluate"):
            return evaluate_eager(self.source, self.request.dataset)

    def export_towers(self, data: ParityData, tokenizer: Tokenizer | None) -> list[TowerExport]:
        """Export each tower's graph, and its programs for AOTInductor."""
        from exporter.datasets.calibration import CALIBRATION_FILE
        from exporter.tower_export import TowerExporter

        request = self.request
        programs = program_plan(request.kinds, request.engine_options, self.folder / _PROGRAMS)
        exporter = TowerExporter(
            self.source,
            request.precision,
            tokenizer,
            self.folder,
            self.stages,
            programs,
            self._graphs(),
            request.options.opset,
        )
        towers = exporter.export(request.towers, request.options.image_input, data)
        (self.folder / CALIBRATION_FILE).unlink(missing_ok=True)
        return towers

    def _graphs(self) -> Graphs | None:
        """The graphs that a quantized bundle needs, with the inputs of its calibration; None for other precisions."""
        from exporter.quantization.for_export import QuantizationInputs
        from exporter.tower_export import Graphs

        calibration = self.request.calibration
        if calibration is None:
            return None
        with self.stages.stage("read calibration data", "calibration") as figures:
            pixels, pixels_source = self._calibration_pixels()
            figures["images"] = 0 if pixels is None else len(pixels)
            ids = None
            if self.source.tokenizer is not None and "text" in self.request.towers:
                ids = self.source.tokenizer(list(calibration.captions)).numpy().astype("int32")
        cpu, gpu = self.request.graphs
        inputs = QuantizationInputs(pixels, pixels_source, ids, calibration.captions_source)
        return Graphs(cpu=cpu, gpu=gpu, inputs=inputs)

    def _calibration_pixels(self) -> tuple[Any, str]:
        """Decode the images for calibration; returns them (None where no image tower is exported) and their origin in words."""
        from exporter.datasets.calibration import RECOMMENDED_IMAGES, decode_images

        calibration, count = self.request.calibration, self.request.options.calibration_samples
        if calibration is None or "image" not in self.request.towers:
            return None, ""
        images = decode_images(calibration, self.source.preprocess, count or RECOMMENDED_IMAGES, self.folder)
        if images.skipped or images.blank:
            self.stages.note(
                f"calibration images left out: {images.skipped} cannot be read"
                f"{f' ({images.first_skipped})' if images.first_skipped else ''}, {images.blank} of one colour"
            )
        if len(images.pixels) < RECOMMENDED_IMAGES and count is None:
            self.stages.note(f"calibration with {len(images.pixels)} images; {RECOMMENDED_IMAGES} are recommended")
        return images.pixels, f"{len(images.pixels)} images of {calibration.name}"

    def judge(
        self, towers: Sequence[TowerExport], built: Built, data: ParityData, tokenizer: Tokenizer | None
    ) -> tuple[tuple[Parity, ...], Built]:
        """Run the gate and write the reference; returns the gate's rows, and the engines that remain.

        Raises:
            ParityGateError: an engine is outside the limits, and the options do not allow it.
        """
        from exporter.gate.float64_gate import Float64Gate
        from exporter.gate.gate import run_gate, write_reference
        from exporter.gate.refusal import finite, refusal
        from exporter.reference.captions import caption_arrays
        from exporter.reference.float64_eager import Float64Eager

        options, source, precision = self.request.options, self.source, self.request.precision
        with self.stages.stage("parity gate", "gate"):
            references = {item.name: item.reference for item in towers}
            float64 = Float64Gate(Float64Eager(lambda: load_model(options), source.info.weights, data, references))
            parity, built = run_gate(towers, built, precision, source, self.folder, self.stages, float64)
            captions = {}
            if tokenizer is not None and source.tokenizer is not None:
                captions = caption_arrays(source.tokenizer, self.folder, tokenizer)
            write_reference(self.folder / _REFERENCE_NAME, towers, source.preprocess, float64, captions)
        if not all(row.passed for row in parity):
            if not options.allow_accuracy_loss or not all(map(finite, parity)):
                raise refusal(parity, precision.name, float64.findings)
            parity = tuple(msgspec.structs.replace(row, accuracy_loss_allowed=not row.passed) for row in parity)
        return parity, built

    def manifest(
        self, towers: Sequence[TowerExport], built: Built, parity: tuple[Parity, ...], tokenizer: Tokenizer | None
    ) -> Manifest:
        """Make the manifest, without files and without the task's accuracy."""
        return Manifest(
            schema_version=SCHEMA_VERSION,
            model=self.source.info,
            precision=self.request.precision.name,
            preprocess=self.source.preprocess,
            tokenizer=tokenizer,
            towers={item.name: item.tower for item in towers},
            engines=built.engines,
            parity=parity,
            reference=_REFERENCE_NAME,
            kernels=_kernels(towers, built.engines),
            created_with=package_versions(),
        )

    def evaluate_engines(self, evaluation: Evaluation, bundle: Path, manifest: Manifest) -> Manifest:
        """Measure the engines' accuracy on the task; returns the manifest with it.

        Args:
            evaluation: eager's accuracy.
            bundle: the bundle's folder, which can be loaded.
            manifest: the bundle's manifest.

        Raises:
            ParityGateError: an engine loses too much accuracy, and the options do not allow it.
        """
        from exporter.gate.evaluate import evaluate_engines, refusal

        precision = self.request.precision
        with self.stages.stage("evaluate engines", "evaluate"):
            rows = evaluate_engines(bundle, manifest.engines, precision, self.source.preprocess, evaluation)
        if not all(row.passed for row in rows) and not self.request.options.allow_accuracy_loss:
            raise refusal(rows, precision.name)
        return msgspec.structs.replace(manifest, accuracy=rows)

    def report(
        self, towers: Sequence[TowerExport], parity: Sequence[Parity], data: ParityData, left_out: Sequence[LeftOut]
    ) -> dict[str, Any]:
        """Make the content of ``report.json``."""
        from exporter.gate.gate import make_report

        report = make_report(self.stages, towers, parity, data.source, self.source)
        return report | {"left_out": [dataclasses.asdict(item) for item in left_out]}


def _kernels(exports: Sequence[TowerExport], engines: Sequence[Engine]) -> Kernels:
    """Count the fused modules in AOTInductor's packages, over all towers that have a package."""
    packaged = {engine.tower for engine in engines if engine.kind == "aotinductor"}
    reports = [item.swapped for item in exports if item.swapped is not None and item.name in packaged]
    if not reports:
        return Kernels()
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.swapped)
    return Kernels(mode=reports[0].mode, swapped=dict(total))


__all__ = ["ExportResult", "Options", "default_folder", "export", "run_export"]
