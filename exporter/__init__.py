"""From the name of an OpenCLIP model to a verified bundle: ``exporter.export("ViT-L-14", precision="fp16")``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from exporter.errors import ExportError, IncompleteBundleError, ParityGateError
    from exporter.pipeline import export
    from exporter.source.loading import list_models

__all__ = ["ExportError", "IncompleteBundleError", "ParityGateError", "export", "list_models"]

_HOMES = {
    "ExportError": "exporter.errors",
    "IncompleteBundleError": "exporter.errors",
    "ParityGateError": "exporter.errors",
    "export": "exporter.pipeline",
    "list_models": "exporter.source.model_list",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'exporter' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
