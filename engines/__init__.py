"""Serve OpenCLIP bundles without PyTorch: ``engines.load(path)`` gives an `Embedder`.

The types of all arguments and results of `load` and of `Embedder` can be imported from here.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, overload

from engines import errors

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from engines.embedder import Embedder
    from engines.inputs.arguments import Template
    from engines.inputs.image_inputs import ImageInput
    from engines.inputs.native import DecoderName
    from engines.manifest import Manifest, TowerName
    from engines.runtimes.aotinductor import AOTInductorOptions
    from engines.runtimes.onnxruntime import OnnxRuntimeOptions
    from engines.runtimes.openvino import OpenVINOOptions
    from engines.runtimes.tensorrt import TensorRTOptions
    from engines.tensorrt.slot import GraphLimits

__all__ = [
    "AOTInductorOptions",
    "DecoderName",
    "Embedder",
    "GraphLimits",
    "ImageInput",
    "Manifest",
    "OnnxRuntimeOptions",
    "OpenVINOOptions",
    "Template",
    "TensorRTOptions",
    "TowerName",
    "errors",
    "load",
]

# Public names and their modules, which are imported at the first use, because `import engines` itself takes a few milliseconds.
_HOMES = {
    "AOTInductorOptions": "engines.runtimes.aotinductor",
    "DecoderName": "engines.inputs.native",
    "Embedder": "engines.embedder",
    "GraphLimits": "engines.tensorrt.slot",
    "ImageInput": "engines.inputs.image_inputs",
    "Manifest": "engines.manifest",
    "OnnxRuntimeOptions": "engines.runtimes.onnxruntime",
    "OpenVINOOptions": "engines.runtimes.openvino",
    "Template": "engines.inputs.arguments",
    "TensorRTOptions": "engines.runtimes.tensorrt",
    "TowerName": "engines.manifest",
}


@overload
def load(
    path: str | os.PathLike[str],
    engine: Literal["onnxruntime"],
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
    **options: Unpack[OnnxRuntimeOptions],
) -> Embedder: ...
@overload
def load(
    path: str | os.PathLike[str],
    engine: Literal["openvino"],
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
    **options: Unpack[OpenVINOOptions],
) -> Embedder: ...
@overload
def load(
    path: str | os.PathLike[str],
    engine: Literal["tensorrt", "tensorrt-rtx"],
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
    **options: Unpack[TensorRTOptions],
) -> Embedder: ...
@overload
def load(
    path: str | os.PathLike[str],
    engine: Literal["aotinductor"],
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
    **options: Unpack[AOTInductorOptions],
) -> Embedder: ...
@overload
def load(
    path: str | os.PathLike[str],
    engine: Literal["auto"] = "auto",
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
    **options: Any,
) -> Embedder: ...
@overload
def load(
    path: str | os.PathLike[str],
    engine: str,
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
) -> Embedder: ...


def load(
    path: str | os.PathLike[str],
    engine: str = "auto",
    device: str = "auto",
    *,
    towers: Sequence[TowerName] | None = None,
    workers: int | None = None,
    max_pixels: int | None = None,
    decoder: DecoderName = "auto",
    fast_decode: bool = False,
    **options: Any,
) -> Embedder:
    """Load a bundle.

    Args:
        path: the bundle's folder; or ``hf:ORG/NAME`` or ``hf:ORG/NAME@REVISION``, a bundle on the Hugging Face hub, which is taken
            from the client's cache, with missing files downloaded; a named engine needs only its own files.
        engine: a kind of engine (`engines.engine_kinds`), or ``auto``: the best engine of the bundle that can run here.
        device: ``auto``, ``cpu`` or ``cuda``.
        towers: the towers to load; None is all. A service that embeds only texts saves the image tower's memory.
        workers: number of threads that decode images; None is one per core that this process may use (affinity and CPU quota).
        max_pixels: largest width x height of an image that is decoded; None is 178,956,970, or twice ``PIL.Image.MAX_IMAGE_PIXELS``
            where that is less.
        decoder: ``pillow``; ``native``: JPEG, PNG and WebP files and arrays in this project's C++ library (docs/cpp.md), others
            with Pillow; or ``auto``: ``native`` where the library is found, in OPENCLIP_ENGINES_LIBRARY or by the dynamic loader.
            The pixels are equal to the bit.
        fast_decode: decode large JPEG files at 1/2, 1/4 or 1/8 of their size, the smallest at which both sides are at least twice
            those of the resized picture. Faster; the pixels differ slightly.
        options: engine options, such as ``threads=``: `OnnxRuntimeOptions`, `OpenVINOOptions`, `TensorRTOptions`,
            `AOTInductorOptions`. The kind's runtime documents them: ``open_tower`` in ``engines/runtimes/<kind>.py``.

    Returns:
        An `Embedder`: use it as a context manager, or close it.

    Raises:
        BundleError: the folder is not a bundle, or is damaged.
        HubError: the hub cannot be reached, or refuses, and the cache does not have the bundle.
        InputError: an argument has the wrong type or range.
        EngineError: `decoder` is ``native`` and the C++ library cannot be used, or OPENCLIP_ENGINES_LIBRARY names no usable one.
        EngineUnavailableError: no engine of the bundle can run here; the message has the reason for each.
    """
    from engines.embedder import Embedder
    from engines.hub.pull import local_bundle

    return Embedder(
        local_bundle(path, engine),
        engine,
        device,
        towers=towers,
        workers=workers,
        max_pixels=max_pixels,
        decoder=decoder,
        fast_decode=fast_decode,
        **options,
    )


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'engines' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
