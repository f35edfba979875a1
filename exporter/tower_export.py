"""Both towers from module to ONNX file, one after the other: text rule, precision probe, export."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from engines.manifest import TextLength, Tokenizer, Tower, TowerName
from engines.verification.embeddings import compare_embeddings
from exporter.aotinductor.program import ProgramPlan
from exporter.aotinductor.tower_programs import TowerPrograms, save_programs
from exporter.exported_tower import TowerExport
from exporter.gate.finite import check_embeddings
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.memory import release_memory
from exporter.options.export_options import ImageInputDtype
from exporter.precision.precisions import PRECISIONS, Precision, apply_plan
from exporter.precision.probe import GATE_SHARE, Probe, probe
from exporter.quantization.for_export import QuantizationInputs, describe, quantize_for_export
from exporter.quantization.layers import QuantizedConvolution
from exporter.quantization.products import use_products
from exporter.quantization.recipe import Quantized
from exporter.reference.eager import Reference, image_reference, text_reference, tower_batches
from exporter.reference.parity_data import ParityData
from exporter.source.loading import Source
from exporter.stages import Stages
from exporter.towers.modules import ImageTower, TextTower, TowerModule, image_tower, text_tower
from exporter.towers.text_rules import find_text_length

_PROBE_SAMPLES = 16
_NOISE = 1.5
# Where the CPU's graph of a quantized tower goes if the bundle has one for GPUs, too.
CPU_FOLDER = "engines/onnxruntime"


@dataclass(frozen=True)
class Graphs:
    """Which graphs of a quantized tower are wanted.

    Attributes:
        cpu: what is not quantized in float32, for ONNX Runtime on the CPU.
        gpu: what is not quantized in the precision's dtype.
        inputs: for calibration.
    """

    cpu: bool
    gpu: bool
    inputs: QuantizationInputs


def export_towers(
    source: Source,
    towers: tuple[TowerName, ...],
    image_input: ImageInputDtype,
    precision: Precision,
    data: ParityData,
    tokenizer: Tokenizer | None,
    folder: Path,
    stages: Stages,
    programs: ProgramPlan | None = None,
    graphs: Graphs | None = None,
) -> list[TowerExport]:
    """Export towers into `folder`.

    Eager's reference comes first for all towers; then one tower at a time, whose modules are consumed and freed on the way.

    Args:
        source: the model; it cannot be used afterwards.
        towers: which; ``image`` before ``text``.
        image_input: of the image tower.
        precision: of the graphs.
        data: pictures and captions for reference, probe and text rule.
        tokenizer: the manifest's entry; None if there is no text tower among them.
        folder: where the files go.
        stages: is told what goes on.
        programs: where the towers go as programs for AOTInductor, too; None: nowhere.
        graphs: of a quantized precision: which are wanted, and what it is calibrated with.

    Raises:
        ExportError: eager's own embeddings are not finite, or of length 0.
    """
    references: dict[TowerName, Reference] = {}
    for name in towers:
        with stages.stage(f"eager reference, {name}") as figures:
            references[name] = (image_reference if name == "image" else text_reference)(source, data)
            figures["samples"] = len(references[name].inputs)
        check_embeddings(references[name].embeds, name)
    model: Any = source.model
    exports = []
    for name in towers:
        module: TowerModule
        if name == "image":
            module = image_tower(model, source.preprocess, image_input)
            model.visual = None
        else:
            module = text_tower(model)
        if name == towers[-1]:
            _empty(model)
        exports.append(
            _export_tower(
                name, module, references[name], precision, tokenizer, folder, source, stages, programs, graphs
            )
        )
        del module
        release_memory()
    return exports


def _empty(model: torch.nn.Module) -> None:
    """Make the model let go of its parts: what a tower still needs, it holds itself."""
    model._modules.clear()
    model._parameters.clear()
    model._buffers.clear()


def _export_tower(
    name: TowerName,
    module: TowerModule,
    reference: Reference,
    precision: Precision,
    tokenizer: Tokenizer | None,
    folder: Path,
    source: Source,
    stages: Stages,
    programs: ProgramPlan | None,
    graphs: Graphs | None,
) -> TowerExport:
    normalize = source.preprocess if isinstance(module, ImageTower) and module.image_input == "float32" else None
    length: TextLength | None = None
    if isinstance(module, TextTower):
        assert tokenizer is not None
        with stages.stage("text length rule") as figures:
            length = find_text_length(module, reference.inputs, tokenizer.pad_id)
            figures["rule"] = msgspec.to_builtins(length)
    tokens = min(16, length.max) if length is not None and length.keep != "fixed" else (length.max if length else 0)
    example = example_input(module, source.preprocess.size, tokens)
    batches = list(tower_batches(reference.head(_PROBE_SAMPLES), normalize))
    quantized: Quantized | None = None
    cpu_graph: OnnxGraph | None = None
    reduced = precision.dtype != torch.float32
    if graphs is not None:
        with stages.stage(f"quantize {name} tower, {precision.name}") as figures:
            pad_id = tokenizer.pad_id if tokenizer is not None else 0
            quantized = quantize_for_export(module, precision, graphs.inputs, normalize, length, pad_id)
            figures |= {"layers": len(quantized.scales), "share_of_flops": quantized.share, "tried": quantized.searched}
        if graphs.cpu:
            place = folder / CPU_FOLDER if graphs.gpu else folder
            place.mkdir(parents=True, exist_ok=True)
            with stages.stage(f"export {name} tower for the CPU") as figures, _exact_convolutions(quantized):
                cpu_graph = export_graph(module, example, place / f"{name}.onnx", length)
                figures |= {"bytes": cpu_graph.bytes, "nodes": sum(cpu_graph.operators.values())}
        quantized.settle()
        reduced = graphs.gpu
    found: Probe | None = None
    if reduced:
        with stages.stage(f"probe {str(precision.dtype).removeprefix('torch.')}, {name}") as figures:
            found = _probe(module, batches, reference, precision)
            figures |= {"fp32_units": dict(found.plan.fp32_units), "simulated": msgspec.to_builtins(found.simulated)}
            apply_plan(module, found.plan)
    graph = cpu_graph
    if graph is None or (graphs is not None and graphs.gpu):
        with stages.stage(f"export {name} tower") as figures:
            graph = export_graph(module, example, folder / f"{name}.onnx", length)
            figures |= {"bytes": graph.bytes, "nodes": sum(graph.operators.values())}
    written: TowerPrograms | None = None
    if programs is not None:
        if quantized is not None:
            use_products(module)
        written = save_programs(name, module, example, length, precision.name, programs, stages)
    tower = Tower(
        graph=graph.path.relative_to(folder).as_posix(),
        input=graph.input,
        output=graph.output,
        length=length,
        fp32_units=dict(found.plan.fp32_units) if found is not None else {},
        quantization=None
        if quantized is None or graphs is None
        else describe(quantized, graphs.inputs, isinstance(module, ImageTower)),
    )
    return TowerExport(name, reference, graph, tower, found, quantized, cpu_graph, programs=written)


def _probe(module: TowerModule, batches: list[torch.Tensor], reference: Reference, precision: Precision) -> Probe:
    """The probe of what is not quantized: it may add as much to the distance from eager as the unquantized precision may have.

    The slightest rounding moves values over the boundaries between quantization's steps, and so changes quantization's noise, if
    not its size: half of that distance more is not held against float16, either.
    """
    embeds = reference.head(_PROBE_SAMPLES).embeds
    if precision.quantized is None:
        return probe(module, batches, embeds, precision)
    with torch.inference_mode():
        own = torch.cat([module(batch) for batch in batches]).numpy()
    before, limits = compare_embeddings(embeds, own), PRECISIONS["fp16"].limits
    allowed = msgspec.structs.replace(
        limits,
        min_cosine=limits.min_cosine - _NOISE * (1.0 - before.min_cosine) / GATE_SHARE,
        mean_cosine=limits.mean_cosine - _NOISE * (1.0 - before.mean_cosine) / GATE_SHARE,
    )
    return probe(module, batches, embeds, dataclasses.replace(precision, limits=allowed))


@contextlib.contextmanager
def _exact_convolutions(quantized: Quantized) -> Iterator[None]:
    """Inside, convolutions compute in float32: ONNX Runtime's int8 ones were 0.5 to 1.0 times as fast on a CPU with VNNI."""
    layers = [layer for layer in quantized.layers if isinstance(layer, QuantizedConvolution)]
    for layer in layers:
        layer.exact = True
    try:
        yield
    finally:
        for layer in layers:
            layer.exact = False
