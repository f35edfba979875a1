"""Towers of the models in `shallow`, and their graphs."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from shallow import register

from engines.manifest import TextLength
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.precision.precisions import PRECISIONS, PrecisionPlan, apply_plan
from exporter.source.loading import Source, load_source
from exporter.towers.modules import TowerModule, image_tower, text_tower

LENGTH = TextLength(keep="end", extra=0, min=2, max=77)


def shallow_source(architecture: str, narrow: bool = True) -> Source:
    """A shallow model with random weights, without its tokenizer."""
    with TemporaryDirectory() as folder:
        return load_source(register(architecture, Path(folder), narrow=narrow), "none", with_tokenizer=False)


def shallow_tower(source: Source, kind: str) -> TowerModule:
    """The ``image`` or ``text`` tower, which may take parts out of the model: each can be made once."""
    model: Any = source.model
    return image_tower(model, source.preprocess) if kind == "image" else text_tower(model)


def shallow_graph(
    architecture: str, kind: str, folder: Path, precision: str = "fp32", narrow: bool = True
) -> OnnxGraph:
    """The graph of a tower, exported into `folder` with a batch of two and nine tokens."""
    source = shallow_source(architecture, narrow)
    tower = shallow_tower(source, kind)
    dtype = PRECISIONS[precision].dtype
    if dtype != torch.float32:
        apply_plan(tower, PrecisionPlan(dtype, dtype))
    return tower_graph(tower, source, kind, folder)


def tower_graph(tower: TowerModule, source: Source, kind: str, folder: Path) -> OnnxGraph:
    """The graph of a tower as it is."""
    example = example_input(tower, source.preprocess.size, 9)
    return export_graph(tower, example, folder / f"{kind}.onnx", LENGTH if kind == "text" else None)
