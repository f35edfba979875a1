"""The whole way: a model's name in, a verified bundle on disk out."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import msgspec

from engines.manifest import (
    SCHEMA_VERSION,
    Kernels,
    Manifest,
    Tokenizer,
    TowerName,
    read_manifest,
)
from exporter.build_engines import ENGINES, build_engines, engine_kinds, program_plan
from exporter.engine_options import EngineOptions
from exporter.errors import ExportError
from exporter.stages import Stages

if TYPE_CHECKING:
    from exporter.precision import Precision
    from exporter.source import Source
    from exporter.tower_export import TowerExport
    from exporter.towers import ImageInput

TOWERS: tuple[TowerName, ...] = get_args(TowerName)

_REFERENCE_NAME = "reference.npz"
_PROGRAMS = ".programs"  # towers as AOTInductor reads them, until it has
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
    "polygraphy",
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
    engine_options: EngineOptions = field(default_factory=EngineOptions)


@dataclass
class ExportResult:
    """The bundle and the report that was written into it."""

    path: Path
    manifest: Manifest
    report: dict[str, Any]


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
    engine_options: EngineOptions | None = None,
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
        engine_options: targets, batch sizes and builder options of engines that are built: TensorRT's and AOTInductor's.

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
        engine_options=engine_options or EngineOptions(),
    )
    return run_export(options, Stages()).path


def run_export(options: Options, stages: Stages) -> ExportResult:
    """As `export`, with progress shown by `stages`."""
    from exporter.bundle import BundleWriter, check_destination
    from exporter.gate import make_report, refusal, run_gate, write_reference
    from exporter.parity_data import load_parity_data
    from exporter.tower_export import export_towers

    precision = _precision(options.precision)
    _check_towers(options)
    kinds = engine_kinds(options.engines, options.engine_options, stages)
    if options.out is not None:
        check_destination(options.out, options.force)  # before anything slow
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
        exports = export_towers(
            source,
            tuple(t for t in TOWERS if t in options.towers),
            options.image_input,
            precision,
            data,
            tokenizer,
            writer.folder,
            stages,
            program_plan(kinds, options.engine_options, writer.folder / _PROGRAMS),
        )
        engines = build_engines(kinds, exports, writer.folder, options.engine_options, stages)
        shutil.rmtree(writer.folder / _PROGRAMS, ignore_errors=True)
        with stages.stage("parity gate"):
            parity = run_gate(exports, engines, precision, source, writer.folder)
            write_reference(writer.folder / _REFERENCE_NAME, exports)
        if not all(row.passed for row in parity):
            if not options.allow_accuracy_loss:
                raise refusal(parity, precision.name)
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
            kernels=_kernels(exports),
            created_with=_versions(),
        )
        report = make_report(stages, exports, parity, data.source, source)
        with stages.stage("checksums"):
            path = writer.commit(manifest, report)
    return ExportResult(path, read_manifest(path), report)


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


def _check_towers(options: Options) -> None:
    unknown = [tower for tower in options.towers if tower not in TOWERS]
    if unknown or not options.towers:
        raise ExportError(f"towers {', '.join(unknown) or '(none)'}: choose from {', '.join(TOWERS)}")


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


def _kernels(exports: Sequence[TowerExport]) -> Kernels:
    """Fused modules in AOTInductor's packages, both towers together."""
    reports = [item.swapped for item in exports if item.swapped is not None]
    if not reports:
        return Kernels()
    total: Counter[str] = Counter()
    for report in reports:
        total.update(report.swapped)
    return Kernels(mode=reports[0].mode, swapped=dict(total))


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


__all__ = ["ENGINES", "TOWERS", "ExportResult", "Options", "default_folder", "export", "run_export"]
