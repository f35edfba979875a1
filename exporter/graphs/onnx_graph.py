"""The export of a tower to an ONNX file: traced with a dynamic batch and text length, cleaned by passes, weights beside it.

The peak of memory is the traced module plus one weight, because weights are written from the module's own storage.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from engines.manifest import Tensor, TextLength
from exporter.graphs.passes import run_passes
from exporter.options.export_options import DEFAULT_OPSET
from exporter.quantization.operators import translations
from exporter.towers.modules import ImageTower, TextTower, TowerModule

# Weights start at page boundaries, so that a runtime can map them without a copy.
_ALIGNMENT = 4096


@dataclass(frozen=True)
class OnnxGraph:
    """An exported graph on disk.

    Attributes:
        path: the ``.onnx`` file; its weights are in ``<path>.data``.
        input, output: the names, dtypes and shapes, in the manifest's form.
        operators: the number of nodes of each operator.
        passes: the number of matches of each pass of `exporter.graphs.passes`.
        bytes: the size of both files.
        opset: the version of ONNX's operators in it.
    """

    path: Path
    input: Tensor
    output: Tensor
    operators: dict[str, int]
    passes: dict[str, int]
    bytes: int
    opset: int = DEFAULT_OPSET


def export_graph(
    tower: TowerModule,
    example: torch.Tensor,
    path: Path,
    length: TextLength | None = None,
    opset: int = DEFAULT_OPSET,
) -> OnnxGraph:
    """Trace `tower` and write its graph.

    Args:
        tower: the tower, in evaluation mode, its precision already applied.
        example: an input with a batch of at least two, and for text with at least two tokens.
        path: the ``.onnx`` file to write; ``<path>.data`` is written beside it.
        length: the length rule of a text tower; ``fixed`` makes the length static.
        opset: the graph's opset, 18 to 23.

    Raises:
        ExportError: the opset cannot express the graph.
    """
    dynamic: dict[int, Any] = {0: torch.export.Dim("N", min=1)}
    if length is not None and length.keep != "fixed":
        dynamic[1] = torch.export.Dim("L", min=length.min, max=length.max)
    with torch.inference_mode(), _quiet():
        program = torch.onnx.export(
            tower,
            (example,),
            dynamo=True,
            opset_version=DEFAULT_OPSET,
            optimize=False,
            dynamic_shapes=(dynamic,),
            input_names=[tower.input_name],
            output_names=[tower.output_name],
            custom_translation_table=translations(),
            verbose=False,
        )
        assert program is not None
        model = program.model
        embed_dim = _embed_dim(model)
        passes = run_passes(model, opset)
    model.graph.name = tower.output_name
    model.producer_name, model.producer_version = "openclip-engines", None
    with torch.inference_mode():
        ir.save(model, path, external_data=f"{path.name}.data", **_alignment())
    data = path.with_name(f"{path.name}.data")
    return OnnxGraph(
        path=path,
        input=Tensor(
            name=tower.input_name, dtype=str(_numpy_dtype(example)), shape=_input_shape(tower, example, dynamic)
        ),
        output=Tensor(name=tower.output_name, dtype="float32", shape=("N", embed_dim)),
        operators=dict(Counter(node.op_type for node in model.graph)),
        passes=passes,
        bytes=path.stat().st_size + data.stat().st_size,
        opset=opset,
    )


def _embed_dim(model: ir.Model) -> int:
    """The length of an embedding, as the trace found it."""
    shape = model.graph.outputs[0].shape
    assert shape is not None
    width = shape[1]
    assert isinstance(width, int)
    return width


def _alignment() -> dict[str, Any]:
    """Return `ir.save`'s alignment arguments; none for onnx-ir 1.0, which aligns tensors above 1 MiB to 64 KiB itself."""
    if "alignment" not in inspect.signature(ir.save).parameters:
        return {}
    return {"alignment": _ALIGNMENT, "align_threshold": _ALIGNMENT}


def example_input(tower: TowerModule, size: tuple[int, int], length: int) -> torch.Tensor:
    """Make a batch of two for tracing the tower; the values do not matter, except that ids must be in range."""
    if isinstance(tower, ImageTower):
        if tower.image_input == "uint8":
            return torch.zeros(2, *size, 3, dtype=torch.uint8)
        return torch.zeros(2, 3, *size, dtype=torch.float32)
    assert isinstance(tower, TextTower)
    return torch.ones(2, length, dtype=torch.int32)


def _numpy_dtype(tensor: torch.Tensor) -> np.dtype[Any]:
    return torch.empty(0, dtype=tensor.dtype).numpy().dtype


def _input_shape(tower: TowerModule, example: torch.Tensor, dynamic: dict[int, Any]) -> tuple[int | str, ...]:
    return tuple("NL"[axis] if axis in dynamic else int(size) for axis, size in enumerate(example.shape))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the progress lines of torch's exporter, and its warnings about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
