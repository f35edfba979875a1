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


@pytest.fixture(scope="session")
def _rtx_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporter.engine_options import EngineOptions
    from exporter.pipeline import export

    pytest.importorskip("tensorrt_rtx")
    out = tmp_path_factory.mktemp("rtx") / "demo"
    return export(
        "demo",
        precision="fp16",
        engines=("tensorrt-rtx", "onnxruntime"),
        out=out,
        parity_samples=16,
        engine_options=EngineOptions(targets=("sm80", "sm89")),
    )


@pytest.fixture
def rtx_bundle(_rtx_bundle: Path, tmp_path: Path) -> Path:
    """The demo model in fp16 with TensorRT-RTX engines for two targets, built on the CPU; a copy that a test may damage."""
    return Path(shutil.copytree(_rtx_bundle, tmp_path / "rtx"))
