"""The request of an export: the user's options, applied to this machine and checked before the model is loaded."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.builders.registry import can_run, check_precision, engine_kinds, quantized_defaults, runs_on_cpu
from exporter.errors import ExportError, LeftOut
from exporter.options.engine_options import EngineOptions
from exporter.options.export_options import TOWERS, Options
from exporter.stages import Stages

if TYPE_CHECKING:
    from engines.manifest import TowerName
    from exporter.datasets import Dataset
    from exporter.datasets.calibration import Calibration
    from exporter.precision.precisions import Precision
    from exporter.source.loading import Source

_PARITY_IMAGES = 64
_FIRST_FLOAT8_OPSET = 19


@dataclass(frozen=True)
class Request:
    """The request of an export.

    Attributes:
        options: the user's options.
        precision: the precision of the graphs.
        kinds: the kinds of engines to build.
        engine_options: the user's engine options, with the targets that ``auto`` chose for a quantized precision.
        refused: the requested engines that cannot be built here.
        calibration: the calibration data for a quantized precision; None for other precisions.
        dataset: the labelled images of the task; None: the task is not measured.
    """

    options: Options
    precision: Precision
    kinds: tuple[str, ...]
    engine_options: EngineOptions
    refused: tuple[LeftOut, ...]
    calibration: Calibration | None
    dataset: Dataset | None

    @property
    def towers(self) -> tuple[TowerName, ...]:
        """The towers to export, the image tower first."""
        return tuple(tower for tower in TOWERS if tower in self.options.towers)

    @property
    def graphs(self) -> tuple[bool, bool]:
        """Whether engines need a quantized graph for CPUs, and whether they need one for GPUs."""
        on_cpu = [runs_on_cpu(kind, self.kinds, self.engine_options) for kind in self.kinds]
        return any(on_cpu), not all(on_cpu)


def check_request(options: Options, stages: Stages) -> Request:
    """Check options, in the order in which they matter to a user.

    Args:
        options: the user's options.
        stages: the display of notes about engines and measurements that are not possible here.

    Raises:
        ExportError: an option or a folder is wrong, or no requested engine can be built here.
    """
    from exporter.bundle import check_destination
    from exporter.gate.evaluate import open_evaluation
    from exporter.reference.parity_data import check_parity_data

    precision = _precision(options.precision)
    unknown = [tower for tower in options.towers if tower not in TOWERS]
    if unknown or not options.towers:
        raise ExportError(f"towers {', '.join(unknown) or '(none)'}: choose from {', '.join(TOWERS)}")
    requested, engine_options = quantized_defaults(options.engines, options.engine_options, precision, stages)
    kinds, refused = engine_kinds(requested, engine_options, stages)
    check_precision(kinds, engine_options, precision)
    if precision.name == "fp8" and options.opset < _FIRST_FLOAT8_OPSET:
        raise ExportError(f"fp8 needs ONNX's opset {_FIRST_FLOAT8_OPSET}: pass --opset {_FIRST_FLOAT8_OPSET} or newer")
    calibration = _calibration(options, precision)
    own_task = options.name == "demo" and precision.quantized is not None
    dataset = open_evaluation(options.evaluate, own_task, options.towers)
    if dataset is not None and not any(can_run(kind) for kind in kinds):
        if options.evaluate is not None:
            stages.note(f"none of the engines {', '.join(kinds)} can run here: the task is not measured")
        dataset = None
    if options.layout is not None:
        from exporter.layouts.support import check_request as check_layout

        check_layout(precision.name, options.towers, kinds)
        _check_layout_of_model(options)
    if options.out is not None:
        check_destination(options.out, options.force)
    check_parity_data(options.parity_data, *parity_counts(options))
    return Request(options, precision, tuple(kinds), engine_options, refused, calibration, dataset)


def _check_layout_of_model(options: Options) -> None:
    """Refuse a model that has no layout before anything is downloaded, as far as its configuration is on this machine.

    Raises:
        ExportError: the model has no layout; other problems of its name are left to the loading of the model.
    """
    from exporter.layouts.support import check_config
    from exporter.source.hub import cache_only
    from exporter.source.origins import resolve_origin

    try:
        with cache_only():
            pretrained = None if options.pretrained is None else os.fspath(options.pretrained)
            origin = resolve_origin(
                options.name, pretrained, options.keep_activation, options.cache_dir, download=False
            )
    except ExportError:
        return
    has_logit_bias = origin.config.get("init_logit_bias") is not None
    check_config(origin.label, origin.architecture, origin.config["text_cfg"], has_logit_bias, None)


def parity_counts(options: Options) -> tuple[int, int]:
    """The numbers of the gate's pictures and captions, which are twice as many."""
    images = options.parity_samples if options.parity_samples is not None else _PARITY_IMAGES
    return images, 2 * images


def load_model(options: Options) -> Source:
    """Load the model of a request and check that its weights are finite.

    Raises:
        ExportError: the model cannot be loaded, or its weights have NaN or infinity.
    """
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


def default_folder(source: Source, precision: str) -> str:
    """Make a bundle's folder name from model, tag and precision, such as ``ViT-L-14--datacomp_xl_s13b_b90k--fp16``."""
    info = source.info
    return folder_name(info.architecture, info.name, info.source, info.tag, precision)


def folder_name(architecture: str, label: str, kind: str, tag: str | None, precision: str) -> str:
    """Make a bundle's folder name from the facts in an `exporter.source.origins.Origin`, and the precision."""
    name = architecture if kind in ("pretrained", "random", "checkpoint") else label
    tag = Path(label).stem if kind == "checkpoint" else tag or kind
    parts = [name, tag, precision] if tag != name else [name, precision]
    return "--".join(part.replace("/", "-").replace(":", "-") for part in parts)


def _precision(name: str) -> Precision:
    from exporter.precision.precisions import PRECISIONS

    if name not in PRECISIONS:
        raise ExportError(f"precision {name!r} is none of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def _calibration(options: Options, precision: Precision) -> Calibration | None:
    """Open the calibration data of a quantized precision; None for other precisions."""
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
