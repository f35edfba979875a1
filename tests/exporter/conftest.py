"""Fixtures that several files share. What they import is imported when one is used, so that others start fast."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from made_once import session_folder

if TYPE_CHECKING:
    import torch
    from made_checkpoints import Weights


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all workers of the session have."""
    return session_folder(tmp_path_factory)


@pytest.fixture(scope="module")
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tiny architectures of `made_checkpoints`, by name, in open_clip's list."""
    from made_checkpoints import register_architectures

    register_architectures(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def weights(architectures: None) -> Weights:
    """Of the architecture ``check-tiny``. Read only."""
    from made_checkpoints import make_model, weights_of

    return weights_of(make_model())


@pytest.fixture(scope="module")
def others(architectures: None) -> Weights:
    """Other weights of the same architecture. Read only."""
    from made_checkpoints import make_model, weights_of

    return weights_of(make_model(seed=8))


@pytest.fixture(scope="module")
def tiny_architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The tiny architectures of `made_sources`, by name, in open_clip's list."""
    from made_sources import register_sources

    register_sources(tmp_path_factory.mktemp("configs"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_architectures: None) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint of ``test-tiny`` with weights of its own. Read only."""
    from made_checkpoints import make_model, weights_of
    from safetensors.torch import save_file

    path = tmp_path_factory.mktemp("weights") / "trained.safetensors"
    state_dict = weights_of(make_model("test-tiny"))
    save_file(state_dict, path)
    return path, state_dict


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub at an address where nothing listens, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
