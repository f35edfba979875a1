"""The exporter: it turns the name of an OpenCLIP model into a verified bundle: ``exporter.export("ViT-L-14", precision="fp16")``.

The types of the arguments, results and errors of `export` can be imported from here.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engines.manifest import KernelMode, Range, TowerName
    from engines.precisions import PrecisionName
    from exporter.errors import ExportError, IncompleteBundleError, LeftOut, ParityGateError
    from exporter.options.engine_options import EngineOptions, HardwareCompatible
    from exporter.options.export_options import ImageInputDtype
    from exporter.pipeline import export
    from exporter.source.model_list import ModelRow, list_models

__all__ = [
    "EngineOptions",
    "ExportError",
    "HardwareCompatible",
    "ImageInputDtype",
    "IncompleteBundleError",
    "KernelMode",
    "LeftOut",
    "ModelRow",
    "ParityGateError",
    "PrecisionName",
    "Range",
    "TowerName",
    "export",
    "list_models",
]

# The module of each public name; it is imported when the name is first used.
_HOMES = {
    "EngineOptions": "exporter.options.engine_options",
    "ExportError": "exporter.errors",
    "HardwareCompatible": "exporter.options.engine_options",
    "ImageInputDtype": "exporter.options.export_options",
    "IncompleteBundleError": "exporter.errors",
    "KernelMode": "engines.manifest",
    "LeftOut": "exporter.errors",
    "ModelRow": "exporter.source.model_list",
    "ParityGateError": "exporter.errors",
    "PrecisionName": "engines.precisions",
    "Range": "engines.manifest",
    "TowerName": "engines.manifest",
    "export": "exporter.pipeline",
    "list_models": "exporter.source.model_list",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
