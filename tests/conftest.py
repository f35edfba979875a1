"""Fixtures that several test files share."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def demo_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundled demo model, exported in float32. Read only: copy it to change something."""
    import exporter

    return exporter.export("demo", out=tmp_path_factory.mktemp("bundles") / "demo", parity_samples=16)


@pytest.fixture
def bundle_copy(demo_bundle: Path, tmp_path: Path) -> Path:
    """A copy of the demo bundle that a test may damage."""
    return Path(shutil.copytree(demo_bundle, tmp_path / "copy"))
