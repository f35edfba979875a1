"""Both towers from module to ONNX file, one after the other: text rule, precision probe, export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from engines.manifest import TextLength, Tokenizer, Tower, TowerName
from exporter.aotinductor.program import ProgramPlan
from exporter.aotinductor.tower_programs import TowerPrograms, save_programs
from exporter.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.parity import Reference, image_reference, text_reference, tower_batches
from exporter.parity_data import ParityData
from exporter.precision import Precision, apply_plan
from exporter.probe import Probe, probe
from exporter.source import Source
from exporter.stages import Stages, release_memory
from exporter.text_rules import find_text_length
from exporter.towers import ImageInput, ImageTower, TextTower, TowerModule, image_tower, text_tower
from kernels.swap import SwapReport

_PROBE_SAMPLES = 16


@dataclass(frozen=True)
class TowerExport:
    """One exported tower.

    Attributes:
        name: ``image`` or ``text``.
        reference: inputs, and eager float32's embeddings for them.
        graph: the ONNX file.
        tower: the manifest's entry.
        probe: of half precisions.
        programs: what AOTInductor compiles, where it was asked for; they go when the engines are built.
    """

    name: TowerName
    reference: Reference
    graph: OnnxGraph
    tower: Tower
    probe: Probe | None
    programs: TowerPrograms | None = None

    @property
    def swapped(self) -> SwapReport | None:
        """Fused modules in the programs."""
        return None if self.programs is None else self.programs.swapped


def export_towers(
    source: Source,
    towers: tuple[TowerName, ...],
    image_input: ImageInput,
    precision: Precision,
    data: ParityData,
    tokenizer: Tokenizer | None,
    folder: Path,
    stages: Stages,
    programs: ProgramPlan | None = None,
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
    """
    references: dict[TowerName, Reference] = {}
    for name in towers:
        with stages.stage(f"eager reference, {name}") as figures:
            references[name] = (image_reference if name == "image" else text_reference)(source, data)
            figures["samples"] = len(references[name].inputs)
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
            _export_tower(name, module, references[name], precision, tokenizer, folder, source, stages, programs)
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
) -> TowerExport:
    normalize = source.preprocess if isinstance(module, ImageTower) and module.image_input == "float32" else None
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
    written: TowerPrograms | None = None
    if programs is not None:
        written = save_programs(name, module, example, length, precision.name, programs, stages)
    fp32_units = dict(found.plan.fp32_units) if found is not None else {}
    tower = Tower(graph=graph.path.name, input=graph.input, output=graph.output, length=length, fp32_units=fp32_units)
    return TowerExport(name, reference, graph, tower, found, programs=written)
