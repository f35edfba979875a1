"""The builder of ONNX Runtime's engines: only their manifest entries, because it runs the bundle's ONNX graphs as they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from engines.manifest import BatchProfile, Engine, Target
from engines.runtimes.onnxruntime import onnxruntime_or_reason
from exporter.builders.built import Built
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions

if TYPE_CHECKING:
    from exporter.exported_tower import TowerExport
    from exporter.stages import Stages

KIND = "onnxruntime"


def check(kind: str, options: EngineOptions) -> None:
    """Check that ONNX Runtime can be imported; the options do not apply to it.

    Raises:
        ExportError: it is missing or broken; the message has the reason and the command that installs it.
    """
    _library("engine onnxruntime cannot be built")


def targets(kind: str, options: EngineOptions) -> tuple[str, ...]:
    """No devices, because the bundle's graphs are run as they are."""
    return ()


def build(kind: str, items: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages) -> Built:
    """Make the manifest's entries: any batch size, any device that the library supports; for quantized towers, the CPU."""
    entries = (
        entry(item, item.graph_for_cpu.path.relative_to(folder).as_posix(), None if item.quantized is None else "cpu")
        for item in items
    )
    return Built(tuple(entries))


def stand_in(item: TowerExport, folder: Path) -> Engine:
    """Make an engine of the tower's own graph, which the gate runs where the engine built from that graph cannot run."""
    return entry(item, item.graph.path.relative_to(folder).as_posix(), None)


def entry(item: TowerExport, file: str, device: str | None) -> Engine:
    """Make the manifest's entry of a graph.

    Raises:
        ExportError: ONNX Runtime is missing or broken.
    """
    library = _library("ONNX Runtime has to run the graph")
    return Engine(
        kind=KIND,
        tower=item.name,
        file=file,
        target=Target(library="onnxruntime", version=library.__version__, device=device),
        batch=BatchProfile(),
    )


def _library(what: str) -> ModuleType:
    module = onnxruntime_or_reason()
    if isinstance(module, str):
        raise ExportError(f"{what}: {module}")
    return module
