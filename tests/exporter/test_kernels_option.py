"""``--kernels``: fused modules in AOTInductor's packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from engines.manifest import read_manifest
from exporter.errors import ExportError
from exporter.options.engine_options import EngineOptions
from exporter.pipeline import export


@pytest.mark.slow  # the C++ compiler takes half a minute; tests/kernels/test_swap.py has the modules themselves
def test_fused_modules_go_into_the_package(tmp_path: Path) -> None:
    """On a CPU the ops are compiled from their references: the package runs, passes the gate, and says what is in it."""
    bundle = export(
        "demo",
        engines=("aotinductor",),
        out=tmp_path / "demo",
        parity_samples=8,
        engine_options=EngineOptions(kernels="triton"),
    )
    manifest = read_manifest(bundle)
    assert manifest.kernels.mode == "triton"
    # Five blocks and two; the last one of the pictures' attends from the first token only.
    assert manifest.kernels.swapped == {
        "attention": 4,
        "packed_attention": 2,
        "linear_gelu": 7,
        "add_layer_norm": 12,
        "normalize_image": 1,
        "l2_normalize": 2,
    }
    for engine, blocks in zip(manifest.engines, (5, 2), strict=True):
        assert engine.build is not None
        assert (engine.build.fused_attention, engine.build.decomposed_attention) == (blocks, 0)
    assert manifest.parity[-1].engine_ran
    assert manifest.parity[-1].passed


def test_other_engines_cannot_hold_them(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="only AOTInductor's packages can hold"):
        export("demo", out=tmp_path / "demo", engine_options=EngineOptions(kernels="triton"))
    with pytest.raises(ExportError, match="is none of auto, triton, native"):
        EngineOptions(kernels="fast")  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())
