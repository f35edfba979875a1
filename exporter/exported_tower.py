"""One exported tower, as builders and the gate get it: its reference, graphs and programs, and how its precision was chosen."""

from __future__ import annotations

from dataclasses import dataclass

from engines.manifest import Tower, TowerName
from exporter.aotinductor.tower_programs import TowerPrograms
from exporter.graphs.onnx_graph import OnnxGraph
from exporter.precision.probe import Probe
from exporter.quantization.recipe import Quantized
from exporter.reference.eager import Reference
from kernels.swap import SwapReport


@dataclass(frozen=True)
class TowerExport:
    """One exported tower.

    Attributes:
        name: ``image`` or ``text``.
        reference: the inputs, and eager float32's embeddings for them.
        graph: the ONNX file.
        tower: the manifest's entry.
        probe: the probe's result for half precisions, and for the layers of a quantized tower that are not quantized; else None.
        quantized: the quantized layers for int8 and fp8; None for other precisions.
        cpu_graph: the graph of a quantized tower for the CPU; None: the CPU runs `graph`.
        programs: the programs that AOTInductor compiles, deleted when the engines are built; None: no such engine is built.
    """

    name: TowerName
    reference: Reference
    graph: OnnxGraph
    tower: Tower
    probe: Probe | None
    quantized: Quantized | None = None
    cpu_graph: OnnxGraph | None = None
    programs: TowerPrograms | None = None

    @property
    def graph_for_cpu(self) -> OnnxGraph:
        """The graph that engines for the CPU run."""
        return self.graph if self.cpu_graph is None else self.cpu_graph

    @property
    def swapped(self) -> SwapReport | None:
        """The fused modules in the programs; None without programs."""
        return None if self.programs is None else self.programs.swapped
