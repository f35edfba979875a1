"""One exported tower, as builders and the gate get it: its reference, its graphs and programs, and how its precision was found."""

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
        reference: inputs, and eager float32's embeddings for them.
        graph: the ONNX file.
        tower: the manifest's entry.
        probe: of half precisions.
        quantized: of int8 and fp8.
        cpu_graph: of a quantized tower, what the CPU runs; None: `graph`.
        programs: what AOTInductor compiles, where it was asked for; they go when the engines are built.
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
        """What engines for the CPU run."""
        return self.graph if self.cpu_graph is None else self.cpu_graph

    @property
    def swapped(self) -> SwapReport | None:
        """Fused modules in the programs."""
        return None if self.programs is None else self.programs.swapped
