"""Serve OpenCLIP bundles without PyTorch: ``engines.load(path)`` gives an `Embedder`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engines import errors

if TYPE_CHECKING:
    from engines.embedder import Embedder
    from engines.manifest import TowerName

__all__ = ["Embedder", "errors", "load"]


def load(
    path: str | os.PathLike[str],
    engine: str = "auto",
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    **options: Any,
) -> Embedder:
    """Load a bundle.

    Args:
        path: the bundle's folder.
        engine: a kind of engine, or ``auto``: the best in the bundle that can run here.
        device: ``auto``, ``cpu`` or ``cuda``.
        towers: which to load; None is all. A service that embeds only texts saves the image tower's memory.
        workers: threads that decode images; None is one per core, at most 8.
        options: of the engine's runtime, such as ``threads=`` for ONNX Runtime; see ``engines/run_<kind>.py``.

    Returns:
        An `Embedder`: use it as a context manager, or close it.

    Raises:
        BundleError: the folder is not a bundle, or is damaged.
        EngineUnavailableError: no engine of the bundle can run here; the message says why for each.
    """
    from engines.embedder import Embedder

    return Embedder(path, engine, device, towers=towers, workers=workers, **options)


def __getattr__(name: str) -> Any:
    if name == "Embedder":
        from engines.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'engines' has no attribute {name!r}")
