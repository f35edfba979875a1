"""The export of both towers from modules to ONNX files, one after the other: text rule, precision probe, export."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from engines.manifest import Preprocess, Quantization, TextLength, Tokenizer, Tower, TowerName
from engines.verification.embeddings import compare_embeddings
from exporter.aotinductor.program import ProgramPlan
from exporter.aotinductor.tower_programs import TowerPrograms, save_programs
from exporter.exported_tower import TowerExport
from exporter.gate.finite import check_embeddings
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.memory import release_memory
from exporter.options.export_options import DEFAULT_OPSET, ImageInputDtype
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
# The folder of a quantized tower's graph for the CPU if the bundle has one for GPUs, too.
CPU_FOLDER = "engines/onnxruntime"


@dataclass(frozen=True)
class Graphs:
    """The graphs of a quantized tower to export.

    Attributes:
        cpu: whether to export the graph for ONNX Runtime on the CPU, with float32 wherever it is not quantized.
        gpu: whether to export the graph for GPUs, with the precision's dtype wherever it is not quantized.
        inputs: the inputs for calibration.
    """

    cpu: bool
    gpu: bool
    inputs: QuantizationInputs


@dataclass(frozen=True)
class TowerExporter:
    """The export of towers, one at a time, whose modules are consumed and freed on the way.

    Attributes:
        source: the model; it cannot be used afterwards.
        precision: the precision of the graphs.
        tokenizer: the manifest's entry of the tokenizer; None if there is no text tower among the towers.
        folder: the bundle's folder.
        stages: the display and timer of the steps.
        programs: the plan of the programs for AOTInductor; None: no programs are written.
        graphs: the graphs to export for a quantized precision, and the inputs of its calibration; None for other precisions.
        opset: the opset of the graphs.
    """

    source: Source
    precision: Precision
    tokenizer: Tokenizer | None
    folder: Path
    stages: Stages
    programs: ProgramPlan | None = None
    graphs: Graphs | None = None
    opset: int = DEFAULT_OPSET

    def export(
        self, towers: tuple[TowerName, ...], image_input: ImageInputDtype, data: ParityData
    ) -> list[TowerExport]:
        """Export towers into the folder: eager's reference for all of them first, then one after the other.

        Args:
            towers: the towers, ``image`` before ``text``.
            image_input: the dtype of the image tower's input.
            data: the pictures and captions for reference, probe and text rule.

        Raises:
            ExportError: eager's own embeddings are not finite, or of length 0.
        """
        references: dict[TowerName, Reference] = {}
        for name in towers:
            with self.stages.stage(f"eager reference, {name}", "reference", name) as figures:
                references[name] = (image_reference if name == "image" else text_reference)(self.source, data)
                figures["samples"] = len(references[name].inputs)
            check_embeddings(references[name].embeds, name)
        model: Any = self.source.model
        exports = []
        for name in towers:
            module: TowerModule
            if name == "image":
                module = image_tower(model, self.source.preprocess, image_input)
                model.visual = None
            else:
                module = text_tower(model)
            if name == towers[-1]:
                _empty(model)
            exports.append(self._export_tower(name, module, references[name]))
            del module
            release_memory()
        return exports

    def _export_tower(self, name: TowerName, module: TowerModule, reference: Reference) -> TowerExport:
        floats = isinstance(module, ImageTower) and module.image_input == "float32"
        normalize = self.source.preprocess if floats else None
        length = self._text_length(module, reference)
        tokens = min(16, length.max) if length is not None and length.keep != "fixed" else (length.max if length else 0)
        example = example_input(module, self.source.preprocess.size, tokens)
        quantized: Quantized | None = None
        cpu_graph: OnnxGraph | None = None
        reduced = self.precision.dtype != torch.float32
        if self.graphs is not None:
            quantized = self._quantize(name, module, self.graphs, normalize, length)
            if self.graphs.cpu:
                place = self.folder / CPU_FOLDER if self.graphs.gpu else self.folder
                place.mkdir(parents=True, exist_ok=True)
                with _exact_convolutions(quantized):
                    title = f"export {name} tower for the CPU"
                    cpu_graph = self._graph(title, name, module, example, place, length)
            quantized.settle()
            reduced = self.graphs.gpu
        probed = self._reduce(name, module, reference, normalize) if reduced else None
        graph = cpu_graph
        if graph is None or (self.graphs is not None and self.graphs.gpu):
            graph = self._graph(f"export {name} tower", name, module, example, self.folder, length)
        written: TowerPrograms | None = None
        if self.programs is not None:
            if quantized is not None:
                use_products(module)
            written = save_programs(name, module, example, length, self.precision.name, self.programs, self.stages)
        quantization: Quantization | None = None
        if quantized is not None and self.graphs is not None:
            quantization = describe(quantized, self.graphs.inputs, isinstance(module, ImageTower))
        tower = Tower(
            graph=graph.path.relative_to(self.folder).as_posix(),
            input=graph.input,
            output=graph.output,
            length=length,
            fp32_units=dict(probed.plan.fp32_units) if probed is not None else {},
            quantization=quantization,
        )
        return TowerExport(name, reference, graph, tower, probed, quantized, cpu_graph, programs=written)

    def _text_length(self, module: TowerModule, reference: Reference) -> TextLength | None:
        """Find a text tower's length rule, which is the number of ids of a row that it needs; None for an image tower."""
        if not isinstance(module, TextTower):
            return None
        assert self.tokenizer is not None
        with self.stages.stage("text length rule", "rule", "text") as figures:
            length = find_text_length(module, reference.inputs, self.tokenizer.pad_id)
            figures["rule"] = msgspec.to_builtins(length)
        return length

    def _quantize(
        self,
        name: TowerName,
        module: TowerModule,
        graphs: Graphs,
        normalize: Preprocess | None,
        length: TextLength | None,
    ) -> Quantized:
        with self.stages.stage(f"quantize {name} tower, {self.precision.name}", "quantize", name) as figures:
            pad_id = self.tokenizer.pad_id if self.tokenizer is not None else 0
            quantized = quantize_for_export(module, self.precision, graphs.inputs, normalize, length, pad_id)
            figures |= {"layers": len(quantized.scales), "share_of_flops": quantized.share, "tried": quantized.searched}
        return quantized

    def _reduce(
        self, name: TowerName, module: TowerModule, reference: Reference, normalize: Preprocess | None
    ) -> Probe:
        """Convert the module to the precision's dtype, except for the units that the probe keeps in float32."""
        batches = list(tower_batches(reference.head(_PROBE_SAMPLES), normalize))
        dtype = str(self.precision.dtype).removeprefix("torch.")
        with self.stages.stage(f"probe {dtype}, {name}", "probe", name) as figures:
            probed = _probe(module, batches, reference, self.precision)
            figures |= {"fp32_units": dict(probed.plan.fp32_units), "simulated": msgspec.to_builtins(probed.simulated)}
            apply_plan(module, probed.plan)
        return probed

    def _graph(
        self,
        title: str,
        name: TowerName,
        module: TowerModule,
        example: torch.Tensor,
        folder: Path,
        length: TextLength | None,
    ) -> OnnxGraph:
        with self.stages.stage(title, "export", name) as figures:
            graph = export_graph(module, example, folder / f"{name}.onnx", length, self.opset)
            figures |= {"bytes": graph.bytes, "nodes": sum(graph.operators.values())}
        return graph


def _empty(model: torch.nn.Module) -> None:
    """Remove the model's references to its parts, so that they can be freed; a tower holds the parts that it needs."""
    model._modules.clear()
    model._parameters.clear()
    model._buffers.clear()


def _probe(module: TowerModule, batches: list[torch.Tensor], reference: Reference, precision: Precision) -> Probe:
    """Probe the parts that are not quantized; they may add as much distance from eager as the unquantized precision may have.

    Even the smallest rounding moves values over the boundaries between quantization's steps, and so changes quantization's noise,
    though not its size: an increase of half that distance is therefore not counted against float16.
    """
    embeds = reference.head(_PROBE_SAMPLES).embeds
    if precision.quantized is None:
        return probe(module, batches, embeds, precision)
    with torch.inference_mode():
        before_rounding = torch.cat([module(batch) for batch in batches]).numpy()
    before, limits = compare_embeddings(embeds, before_rounding), PRECISIONS["fp16"].limits
    allowed = msgspec.structs.replace(
        limits,
        min_cosine=limits.min_cosine - _NOISE * (1.0 - before.min_cosine) / GATE_SHARE,
        mean_cosine=limits.mean_cosine - _NOISE * (1.0 - before.mean_cosine) / GATE_SHARE,
    )
    return probe(module, batches, embeds, dataclasses.replace(precision, limits=allowed))


@contextlib.contextmanager
def _exact_convolutions(quantized: Quantized) -> Iterator[None]:
    """Compute convolutions in float32 inside the context: ONNX Runtime's int8 ones ran 0.5 to 1.0 times as fast with VNNI."""
    layers = [layer for layer in quantized.layers if isinstance(layer, QuantizedConvolution)]
    for layer in layers:
        layer.exact = True
    try:
        yield
    finally:
        for layer in layers:
            layer.exact = False
