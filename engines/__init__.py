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
    max_pixels: int | None = None,
    **options: Any,
) -> Embedder:
    """Load a bundle.

    Args:
        path: the bundle's folder.
        engine: a kind of engine, or ``auto``: the best in the bundle that can run here.
        device: ``auto``, ``cpu`` or ``cuda``.
        towers: which to load; None is all. A service that embeds only texts saves the image tower's memory.
        workers: threads that decode images; None is one per core that this process may use (affinity and CPU quota).
        max_pixels: largest width x height of an image that is decoded; None is 178,956,970, or twice ``PIL.Image.MAX_IMAGE_PIXELS``
            where that is less.
        options: of the engine's runtime, such as ``threads=`` for ONNX Runtime; see ``engines/run_<kind>.py``.

    Returns:
        An `Embedder`: use it as a context manager, or close it.

    Raises:
        BundleError: the folder is not a bundle, or is damaged.
        InputError: an argument has the wrong type or range.
        EngineUnavailableError: no engine of the bundle can run here; the message says why for each.
    """
    from engines.embedder import Embedder

    return Embedder(path, engine, device, towers=towers, workers=workers, max_pixels=max_pixels, **options)


def __getattr__(name: str) -> Any:
    if name == "Embedder":
        from engines.embedder import Embedder

        return Embedder
    raise AttributeError(f"module 'engines' has no attribute {name!r}")
