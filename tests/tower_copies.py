"""Towers of the shallow models of `shallow`: each is made once, and a test gets a copy that it may change."""

from __future__ import annotations

from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

from shallow import register

from engines.manifest import Preprocess
from exporter.source.loading import load_source
from exporter.towers.modules import TowerModule, image_tower, text_tower


@lru_cache(maxsize=4)  # of the last four, because a tower has up to 150 MB of weights
def _tower(architecture: str, kind: str, layers: int) -> tuple[TowerModule, Preprocess]:
    with TemporaryDirectory() as folder:
        name = register(architecture, Path(folder), layers=layers, text_layers=layers)
        source = load_source(name, "none", with_tokenizer=False)
    tower = text_tower(source.model) if kind == "text" else image_tower(source.model, source.preprocess)
    return tower, source.preprocess


def tower_copy(architecture: str, kind: str, layers: int = 2) -> tuple[TowerModule, Preprocess]:
    """A float32 tower ("image" or "text") of random weights and so many layers, and how the model's pictures are prepared."""
    tower, preprocess = _tower(architecture, kind, layers)
    return deepcopy(tower), preprocess
