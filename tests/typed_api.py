"""The public API as type checkers see it: `make lint` runs mypy over this file, which is never executed.

An ignored error that does not occur is an error itself (``warn_unused_ignores``), so that what must be refused is refused.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from typing_extensions import assert_type

import engines
import exporter
from engines.onnxruntime.cuda_session import OnnxRuntimeCudaTower
from engines.runtimes.aotinductor import AOTInductorTower
from engines.runtimes.onnxruntime import OnnxRuntimeTower
from engines.runtimes.openvino import OpenVINOTower
from engines.runtimes.protocol import TowerRuntime
from engines.tensorrt.tower import TensorRTTower

Embeddings = npt.NDArray[np.float32]


def loading(path: str | os.PathLike[str], name: str, options: dict[str, Any]) -> None:
    assert_type(engines.load(path), engines.Embedder)
    engines.load(path, name, "cuda")
    engines.load(path, threads=3, workers=2)
    engines.load(path, "onnxruntime", threads=2, cuda_graphs=[1, 8], towers=["text"])
    engines.load(path, "tensorrt", "cuda", parallel=2, graph_limits=engines.GraphLimits(rows=8))
    engines.load(path, "openvino", threads=None)
    engines.load(path, "aotinductor", device_id=1)
    engines.load(path, decoder="native", fast_decode=True)
    engines.load(path, decoder="turbo")  # type: ignore[call-overload]
    engines.load(path, "onnxruntime", threads="two")  # type: ignore[call-overload]
    engines.load(path, "openvino", parallel=2)  # type: ignore[call-overload]


def embedding(clip: engines.Embedder, tensor: torch.Tensor, pixels: npt.NDArray[np.uint8]) -> None:
    assert_type(clip.encode_image(["a.jpg", Path("b.png"), b"bytes"]), Embeddings)
    assert_type(clip.encode_image(pixels), Embeddings)
    assert_type(clip.encode_image(tensor), torch.Tensor)
    assert_type(clip.encode_text(["a cat"]), Embeddings)
    assert_type(clip.encode_text(tensor), torch.Tensor)
    assert_type(clip.classify(["a.jpg"], ["cat"], [lambda label: f"a {label}"]), Embeddings)
    clip.encode_text([1.5])  # type: ignore[list-item]


def exporting() -> None:
    options = exporter.EngineOptions(targets=("sm80",), batches=(exporter.Range(min=1, opt=8, max=64),))
    assert_type(exporter.export("demo", precision="fp16", engines=["onnxruntime"], engine_options=options), Path)
    try:
        exporter.export("demo")
    except exporter.IncompleteBundleError as error:
        assert_type(error.left_out, tuple[exporter.LeftOut, ...])


def runtimes(
    onnxruntime: OnnxRuntimeTower,
    cuda: OnnxRuntimeCudaTower,
    openvino: OpenVINOTower,
    tensorrt: TensorRTTower,
    aotinductor: AOTInductorTower,
) -> list[TowerRuntime]:
    return [onnxruntime, cuda, openvino, tensorrt, aotinductor]
