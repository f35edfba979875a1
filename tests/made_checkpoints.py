"""Checkpoints of tiny architectures: their configurations, weights, and what the exporter makes of a file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import nn

from exporter.convert_checkpoint import main
from exporter.weights.checkpoint_reading import read_checkpoint
from exporter.weights.checkpoints import load_weights
from exporter.weights.random_weights import fill_random

ROOT = Path(__file__).parents[2]
TEXT: dict[str, Any] = {"context_length": 16, "vocab_size": 64, "width": 32, "heads": 2, "layers": 2}
VISION: dict[str, Any] = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8}
TINY: dict[str, Any] = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
CONFIGS: dict[str, dict[str, Any]] = {
    "check-tiny": TINY,
    "check-custom": {**TINY, "custom_text": True, "init_logit_bias": -10},
    "check-large": {**TINY, "vision_cfg": {**VISION, "image_size": 48}},
    "check-small": {**TINY, "vision_cfg": {**VISION, "image_size": 16}},
    "check-wide": {**TINY, "vision_cfg": {**VISION, "image_size": [32, 64]}},
    "check-short-text": {**TINY, "text_cfg": {**TEXT, "context_length": 9}},
    "check-resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
    "check-resnet-large": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 96, "layers": [1, 1, 1, 1], "width": 16},
        "text_cfg": TEXT,
    },
}
Weights = dict[str, torch.Tensor]


def register_architectures(folder: Path) -> None:
    """Make `CONFIGS` known to open_clip.

    Args:
        folder: where their files go.
    """
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)


def make_model(name: str = "check-tiny", seed: int = 7) -> nn.Module:
    model = open_clip.create_model(name)
    fill_random(model, seed=seed)
    return model


def weights_of(model: nn.Module) -> Weights:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def load(path: Path, name: str = "check-tiny") -> tuple[Weights, tuple[str, ...]]:
    """What the exporter loads, and the notes that it would print."""
    model = open_clip.create_model(name)
    notes = load_weights(model, read_checkpoint(path), path, name)
    return dict(model.state_dict()), notes


def assert_equal(loaded: Weights, expected: Weights) -> None:
    for name, tensor in expected.items():
        assert torch.equal(loaded[name], tensor), name


def prefixed(weights: Weights, prefix: str) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def command_in(message: str) -> str:
    """The one shell command that a message prints between backticks."""
    (command,) = re.findall(r"`(python -m exporter\.convert_checkpoint .*?)`", message)
    return command


def run_line_here(command: str, folder: Path) -> int:
    """Run a printed line in this process, which has imported PyTorch: its exit code.

    A shell splits the line, with a python that writes down its words; `run_line` has Python itself.
    """
    programs = folder / "programs"
    programs.mkdir(exist_ok=True)
    (programs / "python").write_text("#!/bin/sh\nprintf '%s\\0' \"$@\"\n")
    (programs / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    ran = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    *words, end = ran.stdout.split("\0")
    assert (words[:2], end) == (["-m", "exporter.convert_checkpoint"], "")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return main(words[2:])


def run_line(command: str, folder: Path, *import_from: Path) -> subprocess.CompletedProcess[str]:
    """Run a printed line in a shell, with this environment's python first on PATH."""
    path = os.pathsep.join(map(str, (ROOT, *import_from)))
    environment = {**os.environ, "PYTHONPATH": path, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True, check=False)
