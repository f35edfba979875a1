"""The protocols of runtimes: the interface of an engine kind's module, and the interface of a loaded tower.

A test checks every kind of `engines.engine_kinds` against them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from engines.errors import EngineError
from engines.manifest import BatchProfile, Engine, Tower

if TYPE_CHECKING:
    from engines.device.device_arrays import DeviceEmbeddings


class TowerRuntime(Protocol):
    """A loaded tower. Many threads may call its methods.

    Attributes:
        kind: the engine's kind (`engines.engine_kinds`).
        description: library, version and processor, such as ``onnxruntime 1.32.0 CPUExecutionProvider``.
        batch: the batch sizes of one run.
        on_gpu: whether the tower computes on a GPU.
        splits: whether `run` takes any number of rows, and copies one part of them while it computes another.
        takes_device_arrays: whether `run_on_device` takes rows that lie on a GPU.
    """

    kind: str
    description: str
    batch: BatchProfile
    on_gpu: bool
    splits: bool
    takes_device_arrays: bool

    def run(self, inputs: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Embed rows that lie on the host.

        Args:
            inputs: (N, …) of the tower's dtype and shape, N within `batch` unless the runtime `splits`.

        Returns:
            (N, D) float32, L2-normalized.

        Raises:
            EngineError: the engine failed, or was closed.
        """

    def run_on_device(self, inputs: Any, stream: int | None = None) -> DeviceEmbeddings:
        """Embed rows that lie on a GPU, and leave the embeddings there.

        Args:
            inputs: an array with DLPack or the CUDA array interface, contiguous, of the tower's dtype and shape.
            stream: handle of the caller's CUDA stream, in whose order the result is ready. None: the result is ready when the call
                returns.

        Returns:
            (N, D) float32 on the GPU.

        Raises:
            InputError: the array has another dtype, shape or device.
            EngineError: see `run`; or `takes_device_arrays` is False.
        """

    def close(self) -> None:
        """Free the engine; `run` fails afterwards."""


class HostRuntime:
    """Base class of runtimes that take no rows on a GPU."""

    takes_device_arrays = False

    def run_on_device(self, inputs: Any, stream: int | None = None) -> DeviceEmbeddings:
        """Raise an `EngineError`, because the rows must be on the host."""
        raise EngineError("this engine takes rows on the host: pass them as an array there")


class RuntimeModule(Protocol):
    """The module that `engines.engine_kinds` names as a kind's runtime.

    Attributes:
        Options: a TypedDict of the keyword-only arguments of `open_tower`, which are the engine options of `engines.load`.
    """

    Options: type

    def why_not(self, engine: Engine, precision: str, device: str) -> str | None:
        """The reason why an engine cannot run here, for a message; None if it can. The engine's library is imported.

        Args:
            engine: the manifest's entry.
            precision: the bundle's precision.
            device: ``auto``, ``cpu`` or ``cuda``.
        """

    def open_tower(
        self, bundle: Path, engine: Engine, tower: Tower, precision: str, device: str = "auto", **options: Any
    ) -> TowerRuntime:
        """Load one engine.

        Args:
            bundle: the bundle's folder.
            engine: the manifest's entry.
            tower: the tower's signature.
            precision: the bundle's precision.
            device: ``auto``, ``cpu`` or ``cuda``.
            options: the engine options that `Options` lists.

        Raises:
            EngineError: the engine cannot be loaded.
        """
