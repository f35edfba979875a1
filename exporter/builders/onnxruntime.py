"""ONNX Runtime as an engine: it runs the bundle's ONNX graph as it is, so there is nothing to build but its entry."""

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
    """Refuse early where ONNX Runtime is missing or broken; it takes none of the options.

    Raises:
        ExportError: with the reason and the command that installs it.
    """
    _library("engine onnxruntime cannot be built")


def build(kind: str, items: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages) -> Built:
    """The manifest's entries: any batch size, any device that the library supports; of quantized towers, the CPU."""
    entries = (
        entry(item, item.graph_for_cpu.path.relative_to(folder).as_posix(), None if item.quantized is None else "cpu")
        for item in items
    )
    return Built(tuple(entries))


def stand_in(item: TowerExport, folder: Path) -> Engine:
    """The tower's own graph as an engine: what the gate runs where the engine built from it cannot."""
    return entry(item, item.graph.path.relative_to(folder).as_posix(), None)


def entry(item: TowerExport, file: str, device: str | None) -> Engine:
    """The manifest's entry of a graph.

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
    found = onnxruntime_or_reason()
    if isinstance(found, str):
        raise ExportError(f"{what}: {found}")
    return found
