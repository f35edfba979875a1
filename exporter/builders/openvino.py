"""The builder of OpenVINO's engines: only their manifest entries, because it compiles the bundle's ONNX graphs on loading."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

from engines.manifest import BatchProfile, Engine, Target
from engines.runtimes.openvino import openvino_or_reason
from exporter.builders.built import Built
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions

if TYPE_CHECKING:
    from exporter.exported_tower import TowerExport
    from exporter.stages import Stages

KIND = "openvino"


def check(kind: str, options: EngineOptions) -> None:
    """Check that OpenVINO can be imported; the options do not apply to it.

    Raises:
        ExportError: it is missing or broken; the message has the reason and the command that installs it.
    """
    _library()


def targets(kind: str, options: EngineOptions) -> tuple[str, ...]:
    """No devices, because the bundle's graphs are run as they are."""
    return ()


def build(kind: str, items: Sequence[TowerExport], folder: Path, options: EngineOptions, stages: Stages) -> Built:
    """Make the manifest's entries: any batch size, on the CPU."""
    target = Target(library="openvino", version=_library().__version__.split("-")[0], device="cpu")
    entries = (
        Engine(
            kind=KIND,
            tower=item.name,
            file=item.graph_for_cpu.path.relative_to(folder).as_posix(),
            target=target,
            batch=BatchProfile(),
        )
        for item in items
    )
    return Built(tuple(entries))


def _library() -> ModuleType:
    library = openvino_or_reason()
    if isinstance(library, str):
        raise ExportError(f"engine openvino cannot be built: {library}")
    return library
