"""The plan of an export: the checked request, the model's sizes and costs, and whether this machine has the room for it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from engines.hub.client import is_offline
from engines.precisions import PRECISIONS
from exporter.builders.registry import targets_of
from exporter.bundle import check_destination
from exporter.layouts.support import check_config
from exporter.layouts.transformers import layout_folder
from exporter.memory import available_memory
from exporter.options.export_options import Options
from exporter.planning.costs import (
    Basis,
    EnginePlan,
    TowerPlan,
    engine_plan,
    float_weights,
    peak_memory,
    total_seconds,
    tower_plan,
)
from exporter.planning.model import PlannedModel, plan_model
from exporter.request import Request, check_request, folder_name, parity_counts
from exporter.stages import Stages

_REFERENCE_BYTES = 4e6  # the most that the gate's inputs and eager's embeddings take in a bundle
_BYTES_PER_TOKEN = 40  # of tokenizer.json, for each entry of the vocabulary
_COMPILER_COPIES = 2  # of a program's weights in the compiler's temporary folder


class DiskPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A disk on which the export writes.

    Attributes:
        folder: the folders on it that the export uses, the first of them an absolute path.
        need_bytes: bytes that the export needs there at a time.
        free_bytes: bytes that are free.
    """

    folder: str
    need_bytes: float
    free_bytes: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The plan.

    Attributes:
        model: the model's name.
        architecture: its architecture.
        tag: the tag of its weights; None: it has none.
        license: the licence of the weights; None: random weights, or the user's own.
        weights: what the weights are, and where they are, in words.
        downloads: the data to download, in words; empty: nothing.
        download_bytes: bytes of the weights among them, estimated as float32; 0: none.
        precision: the precision's name.
        image_size: height and width in pixels.
        towers: the graphs.
        engines: the engines that are built ahead of time.
        kinds: all kinds of engines of the bundle, those that run the graphs too.
        left_out: requested kinds that cannot be built here, with the reasons.
        steps: the export's steps in order.
        bundle: absolute path of the bundle.
        bundle_bytes: its size; None: not known.
        peak_bytes: peak memory; None: not known.
        peak_basis: whether it was measured.
        available_bytes: memory that is available; 0: not known.
        disks: the disks.
        seconds: time without downloads, on two cores; None: not known.
        seconds_basis: whether the times of all towers and engines were measured.
        notes: sentences about choices, and about what is not known here.
        problems: reasons why the export would fail or be incomplete, with the remedies; empty: it can run.
    """

    model: str
    architecture: str
    tag: str | None
    license: str | None
    weights: str
    downloads: tuple[str, ...]
    download_bytes: float
    precision: str
    image_size: tuple[int, int]
    towers: tuple[TowerPlan, ...]
    engines: tuple[EnginePlan, ...]
    kinds: tuple[str, ...]
    left_out: dict[str, str]
    steps: tuple[str, ...]
    bundle: str
    bundle_bytes: float | None
    peak_bytes: float | None
    peak_basis: Basis
    available_bytes: int
    disks: tuple[DiskPlan, ...]
    seconds: float | None
    seconds_basis: Basis
    notes: tuple[str, ...]
    problems: tuple[str, ...]


def make_plan(options: Options) -> Plan:
    """Plan an export.

    Raises:
        ExportError: the export itself would refuse the options, the model or the folder.
    """
    stages = Stages()
    request = check_request(replace(options, out=None), stages)  # the folder is checked below, without a trial
    with_tokenizer = "text" in request.towers
    model = plan_model(options.name, options.pretrained, options.keep_activation, options.cache_dir, with_tokenizer)
    origin = model.origin
    name = folder_name(origin.architecture, origin.label, origin.kind, origin.tag, options.precision)
    out = Path(os.path.abspath(options.out or name))
    check_destination(out, options.force, trial=False)
    precision = options.precision
    graphs = request.graphs if request.precision.quantized is not None else (True, False)
    towers = tuple(tower_plan(model, tower, precision, graphs) for tower in request.towers)
    engines = tuple(
        engine_plan(model, tower, precision, kind, target)
        for kind in request.kinds
        for target in targets_of(kind, request.kinds, request.engine_options)
        for tower in towers
    )
    weights = float_weights(model, towers)
    fetched = origin.checkpoint is None and origin.kind != "random"
    download = (weights or 0.0) if fetched else 0.0
    peak = peak_memory(model, towers, engines, precision)
    bundle = _bundle_bytes(model, towers, engines)
    if layout_folder(out, options.layout, options.force) is not None:
        has_logit_bias = origin.config.get("init_logit_bias") is not None
        check_config(origin.label, origin.architecture, origin.config["text_cfg"], has_logit_bias, model.preprocess)
    disks = _disks(options, out, towers, engines, bundle, download)
    available = available_memory()
    images, _ = parity_counts(options)
    seconds = total_seconds(model, towers, engines, precision, request.kinds, images)
    parts = [*(tower.basis for tower in towers), *(engine.basis for engine in engines)]
    return Plan(
        model=origin.label,
        architecture=origin.architecture,
        tag=origin.tag,
        license=origin.license.id if origin.license else None,
        weights=_weights(model, fetched),
        downloads=tuple(map(str, model.downloads)),
        download_bytes=download,
        precision=precision,
        image_size=model.preprocess.size,
        towers=towers,
        engines=engines,
        kinds=request.kinds,
        left_out={item.kind: item.why for item in request.refused},
        steps=_steps(request, fetched, engines),
        bundle=str(out),
        bundle_bytes=bundle,
        peak_bytes=None if peak is None else peak[0],
        peak_basis="estimate" if peak is None else peak[1],
        available_bytes=available,
        disks=disks,
        seconds=seconds,
        seconds_basis="estimate" if "estimate" in parts or PRECISIONS[precision].quantized else "measured",
        notes=_notes(model, stages),
        problems=_problems(request, model, None if peak is None else peak[0], available, disks),
    )


def _weights(model: PlannedModel, fetched: bool) -> str:
    words = next(note for note in model.origin.notes if note.startswith("weights: ")).removeprefix("weights: ")
    if fetched:
        return f"{words}; not on this machine"
    return f"{words}; in the cache" if model.origin.kind in ("pretrained", "hf-hub") else words


def _notes(model: PlannedModel, stages: Stages) -> tuple[str, ...]:
    own = tuple(note for note in model.origin.notes if not note.startswith("weights: "))
    refused = tuple(note for note in stages.notes if not note.startswith("left out: "))
    return (*own, *model.notes, *refused)


def _steps(request: Request, fetched: bool, engines: Sequence[EnginePlan]) -> tuple[str, ...]:
    """The steps in the order of `exporter.pipeline.run_export`, by the words of `exporter.stages.Step`."""
    entry = request.precision
    each = [
        "reference",
        *(["rule"] if "text" in request.towers else []),
        *(["quantize"] if entry.quantized is not None else []),
        *(["probe"] if entry.name != "fp32" and (entry.quantized is None or request.graphs[1]) else []),
        "export",
        *(["program"] if "aotinductor" in request.kinds else []),
    ]
    built = dict.fromkeys(f"build {engine.kind} {engine.target}" for engine in engines)
    evaluate = ["evaluate"] if request.dataset is not None else []
    calibration = ["calibration"] if request.calibration is not None else []
    return (
        *(["download"] if fetched else []),
        "load",
        "data",
        *evaluate,
        *calibration,
        *each,
        *built,
        "gate",
        *evaluate,
        "checksums",
        *(["layout"] if request.options.layout is not None else []),
    )


def _bundle_bytes(model: PlannedModel, towers: Sequence[TowerPlan], engines: Sequence[EnginePlan]) -> float | None:
    sizes = [*(tower.file_bytes for tower in towers), *(engine.file_bytes for engine in engines)]
    if None in sizes:
        return None
    tokens = int(model.origin.config["text_cfg"].get("vocab_size", 49408))
    tokenizer = tokens * _BYTES_PER_TOKEN if any(tower.name == "text" for tower in towers) else 0
    return sum(size for size in sizes if size is not None) + tokenizer + _REFERENCE_BYTES


def _disks(
    options: Options,
    out: Path,
    towers: Sequence[TowerPlan],
    engines: Sequence[EnginePlan],
    bundle: float | None,
    download: float,
) -> tuple[DiskPlan, ...]:
    """The disks of the bundle, of downloads and of the compiler's temporary files; folders on the same disk are added up."""
    programs = sum(engine.file_bytes or 0.0 for engine in engines if engine.kind == "aotinductor")
    # A layout has every tower's weights twice: in the tower's own file, and in the one of both towers.
    layout = 2 * sum(tower.file_bytes or 0.0 for tower in towers) if options.layout is not None else 0.0
    needs = [(out.parent, (bundle or 0.0) + programs + layout)]
    if download:
        needs.append((_cache(options), download))
    if programs:
        needs.append((Path(tempfile.gettempdir()), _COMPILER_COPIES * programs))
    by_disk: dict[int, DiskPlan] = {}
    for folder, need in needs:
        while not folder.is_dir():
            folder = folder.parent
        disk = by_disk.get(folder.stat().st_dev)
        names, before = (str(folder), 0.0) if disk is None else (disk.folder, disk.need_bytes)
        if disk is not None and str(folder) not in names.split(", "):
            names = f"{names}, {folder}"
        by_disk[folder.stat().st_dev] = DiskPlan(
            folder=names, need_bytes=before + need, free_bytes=shutil.disk_usage(folder).free
        )
    return tuple(by_disk.values())


def _cache(options: Options) -> Path:
    """The folder for downloads, which need not exist."""
    if options.cache_dir is not None:
        return Path(os.path.abspath(options.cache_dir))
    from huggingface_hub import constants

    return Path(os.path.abspath(constants.HF_HUB_CACHE))


def _problems(
    request: Request, model: PlannedModel, peak: float | None, available: int, disks: Sequence[DiskPlan]
) -> tuple[str, ...]:
    problems = []
    absent = [str(item) for item in model.downloads if item.on_hub]
    if absent and is_offline():
        problems.append(
            f"download: HF_HUB_OFFLINE is set, and the cache lacks {', '.join(absent)}: unset it, or copy the Hugging Face cache "
            "of a machine that has them (HF_HOME)"
        )
    if peak is not None and available and peak > available:
        problems.append(
            f"memory: {peak / 1e9:.1f} GB are needed, and {available / 1e9:.1f} GB are available: end other programs, or export on "
            "a larger machine"
        )
    for disk in disks:
        if disk.need_bytes > disk.free_bytes:
            problems.append(
                f"disk: {disk.need_bytes / 1e9:.1f} GB are needed in {disk.folder}, and {disk.free_bytes / 1e9:.1f} GB are free: "
                "free some, or choose other disks with --out, --cache-dir and TMPDIR"
            )
    lacks = [item.kind for item in request.refused if item.named]
    if lacks:
        problems.append(f"engines: the bundle would lack {', '.join(lacks)}, and the exit code would be 1")
    return tuple(problems)
