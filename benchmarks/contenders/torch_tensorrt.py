"""Torch-TensorRT: PyTorch's own way to TensorRT, on a GPU where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Contender, missing_library
from benchmarks.contenders.eager import EagerTower, load_clip
from benchmarks.contenders.eager import why_not as eager_why_not
from benchmarks.records.machine import versions

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """Torch-TensorRT or a GPU is missing."""
    return missing_library("torch_tensorrt") or eager_why_not(subject, contender, device)


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> TorchTensorRTTower:
    """The model in half precision; it is compiled for each batch size at the first call."""
    model, weights, note = load_clip(subject, device)
    return TorchTensorRTTower(model, subject, contender, tower, device, weights, note)


class TorchTensorRTTower(EagerTower):
    """As `EagerTower`, through ``torch.compile(backend="torch_tensorrt")``."""

    def __init__(self, *args: Any) -> None:
        import torch
        import torch_tensorrt  # noqa: F401  (registers the backend)

        super().__init__(*args)
        options: Any = {"use_explicit_typing": True, "min_block_size": 1}
        self._encode = torch.compile(self._encode, backend="torch_tensorrt", dynamic=False, options=options)
        self.versions = versions(("torch", "torch_tensorrt", "tensorrt"))
