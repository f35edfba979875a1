"""The gate over a whole export, and its parts that the bundle holds: reference inputs and the report."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from engines.errors import EngineError
from engines.manifest import Engine, Parity, Preprocess, TowerName, TowerParity
from engines.verification.rough_inputs import describe, keys
from exporter.builders import onnxruntime as build_onnxruntime
from exporter.builders.built import Built
from exporter.errors import ExportError, LeftOut
from exporter.exported_tower import TowerExport
from exporter.gate.float64_gate import Float64Gate
from exporter.gate.judging import EngineRun, judge, run_engine, runnable, simulation_row
from exporter.memory import release_memory
from exporter.precision.precisions import Precision
from exporter.quantization.for_export import report
from exporter.reference.eager import Reference
from exporter.reference.pictures import picture_arrays
from exporter.source.loading import Source
from exporter.stages import Stages

_REFERENCE_BYTES = 4_000_000
_REFERENCE_SAMPLES = 32

_Ran = dict[str, EngineRun]  # by the graph's file


def run_gate(
    exports: Sequence[TowerExport],
    built: Built,
    precision: Precision,
    source: Source,
    folder: Path,
    stages: Stages,
    float64: Float64Gate,
) -> tuple[tuple[Parity, ...], Built]:
    """Judge the engines of an export, one row for each kind; half precisions add the simulation's row, on the probe's samples.

    The rounding simulation counts because a host without a GPU computes half-precision graphs in float32: there the engine's own
    row proves the graph and the weights, and the simulation's row proves the arithmetic. If an engine cannot run on this host,
    because it was built for another GPU, ONNX Runtime runs the same graph in its place, and its row records that: `engine_ran` is
    false. A kind with an engine for one tower is judged by that tower alone.

    Args:
        exports: the towers and their references.
        built: the engines, and those that could not be built.
        precision: the precision, which has the limits.
        source: the model.
        folder: the bundle's folder.
        stages: the display of a line for each kind that is left out, and for float64's result on each kind outside the limits.
        float64: the check whether a float32 engine outside the limits is wrong, or eager's float32 is rough.

    Returns:
        The rows, and the remaining engines: a kind that cannot be loaded, or fails while it runs, is left out like one that was
        not built.

    Raises:
        ExportError: no engine runs.
    """
    rows = []
    probes: dict[str, TowerParity] = {item.name: item.probe.simulated for item in exports if item.probe is not None}
    if probes:
        rows.append(simulation_row(probes, precision))
    ran: _Ran = {}
    running: list[Engine] = []
    failed: list[LeftOut] = []
    for kind in dict.fromkeys(engine.kind for engine in built.engines):
        of_kind = [engine for engine in built.engines if engine.kind == kind]
        try:
            row, embeds = _judged(kind, of_kind, exports, precision, source, folder, ran)
            running += of_kind
        except EngineError as error:
            # Another kind may run the same files: OpenVINO reads ONNX Runtime's graphs.
            others = [engine.file for engine in built.engines if engine.kind != kind]
            if not any(file.startswith(f"engines/{kind}/") for file in others):
                shutil.rmtree(folder / "engines" / kind, ignore_errors=True)
            failed.append(LeftOut(kind, f"{kind} was built and does not run here: {error}"))
            continue
        if not row.passed and precision.name == "fp32":
            row = float64.settle(row, embeds)
            for line in describe(row):
                stages.note(f"{kind}, {line}: {'passed' if row.passed else 'not passed'}")
        rows.append(row)
    if not running:
        raise ExportError(failed[0].why)
    for item in failed:
        stages.note(f"left out: {item.why}")
    return tuple(rows), Built(tuple(running), (*built.left_out, *failed))


def _judged(
    kind: str,
    engines: Sequence[Engine],
    exports: Sequence[TowerExport],
    precision: Precision,
    source: Source,
    folder: Path,
    ran: _Ran,
) -> tuple[Parity, dict[TowerName, np.ndarray]]:
    """Run and judge the engines of one kind; graphs that ran before on the CPU, as `ran` has them, are not run again."""
    embeds: dict[TowerName, np.ndarray] = {}
    described: list[str] = []
    ran_here = True
    references: dict[TowerName, Reference] = {}
    for item in exports:
        of_tower = [engine for engine in engines if engine.tower == item.name]
        if not of_tower:
            continue
        release_memory()
        references[item.name] = item.reference
        usable = [engine for engine in of_tower if runnable(engine, precision)]
        ran_here = ran_here and bool(usable)
        engine = usable[0] if usable else build_onnxruntime.stand_in(item, folder)
        # In place of another engine, ONNX Runtime may run nodes on any of its providers.
        options = {} if usable else {"cpu_nodes": "allow"}
        found = ran.get(engine.file) if engine.kind == build_onnxruntime.KIND else None
        if found is None:
            found = run_engine(folder, engine, item.tower, item.reference, source.preprocess, precision, **options)
            if engine.kind == build_onnxruntime.KIND and not found.on_gpu:  # a run on a GPU depends on the options
                ran[engine.file] = found
        embeds[item.name] = found.embeds
        described.append(found.description if usable else f"{found.description} on the same graph")
    row = judge(kind, " + ".join(dict.fromkeys(described)), references, embeds, precision.limits)
    return msgspec.structs.replace(row, engine_ran=ran_here), embeds


def write_reference(
    path: Path,
    exports: Sequence[TowerExport],
    preprocess: Preprocess,
    float64: Float64Gate,
    captions: Mapping[str, np.ndarray],
) -> None:
    """Write the file that `verify` reads: inputs and eager embeddings up to the size limit, hard pictures, and `captions`.

    For a tower that is rough on some inputs, only measured inputs are written: the rough ones apart, with float64's embeddings.
    """
    names = {"image": ("image_pixels", "image_embeds"), "text": ("text_ids", "text_embeds")}
    count = _REFERENCE_SAMPLES
    pictures = picture_arrays(preprocess) if any(item.name == "image" for item in exports) else {}
    while True:
        arrays: dict[str, np.ndarray] = {**pictures, **captions}
        for item in exports:
            most = count if item.name == "image" else 2 * _REFERENCE_SAMPLES
            inputs, embeds = names[item.name]
            if item.name in float64.rough:
                arrays |= _rough_arrays(item, most, inputs, embeds, float64)
                continue
            part = item.reference.head(most)
            arrays |= {inputs: part.inputs, embeds: part.embeds}
        np.savez_compressed(path, **arrays)  # type: ignore[arg-type]
        if path.stat().st_size <= _REFERENCE_BYTES or count <= 2:
            return
        count = max(2, int(count * _REFERENCE_BYTES / path.stat().st_size))


def _rough_arrays(
    item: TowerExport, most: int, inputs: str, embeds: str, float64: Float64Gate
) -> dict[str, np.ndarray]:
    """Choose at most `most` measured inputs; the roughest, at most a quarter of them, are in arrays of their own."""
    rough, others = float64.divided(item.name)
    rough = rough[: max(1, most // 4)]
    others = others[: most - len(rough)]
    reference, eager = item.reference, float64.eager
    names = keys(item.name, inputs)
    return {
        inputs: reference.inputs[others],
        embeds: reference.embeds[others],
        names[0]: reference.inputs[rough],
        names[1]: eager.exact(item.name, rough).astype(np.float32),
        names[2]: eager.eager(item.name, rough).astype(np.float32),
        names[3]: (float64.apart * eager.eager(item.name, others)).astype(np.float32),
    }


def make_report(
    stages: Stages, exports: Sequence[TowerExport], parity: Sequence[Parity], data_source: str, source: Source
) -> dict[str, Any]:
    """Make the content of ``report.json``, which ``--json`` prints, too."""
    towers: dict[str, dict[str, Any]] = {}
    for item in exports:
        towers[item.name] = {
            "bytes": item.graph.bytes,
            "opset": item.graph.opset,
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
        if item.quantized is not None:
            towers[item.name]["quantization"] = report(item.quantized)
    return {
        "notes": list(source.notes),
        "parity_data": data_source,
        "stages": stages.rows,
        "towers": towers,
        "parity": msgspec.to_builtins(parity),
    }
