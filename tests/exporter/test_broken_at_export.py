"""The exporter where a library is installed and broken: an engine is left out, or one sentence says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_libraries import answer_of, break_library, run_python

CHECK = """
import sys
from exporter.builders.registry import engine_kinds, quantized_defaults
from exporter.options.engine_options import EngineOptions
from exporter.errors import ExportError
from exporter.stages import Stages
stages = Stages(None)
"""
BROKEN = "is installed and cannot be imported (RuntimeError: it is broken)"


# Engine → the library of it that is broken, in one process.
@pytest.mark.parametrize(
    "broken",
    [
        {"openvino": "openvino", "tensorrt-rtx": "tensorrt_rtx"},
        {"aotinductor": "torch"},
        {"tensorrt-rtx": "polygraphy"},
    ],
    ids=lambda broken: "-".join(broken.values()),
)
def test_an_engine_whose_library_is_broken_is_left_out(tmp_path: Path, broken: dict[str, str]) -> None:
    if "polygraphy" in broken.values():
        pytest.importorskip("tensorrt_rtx")
    for module in broken.values():
        break_library(tmp_path, module)
    code = (
        f"{CHECK}found = []\n"
        f"for kind in {list(broken)!r}:\n"
        "    stages = Stages(None)\n"
        "    options = EngineOptions(targets=('sm80',)) if kind == 'tensorrt-rtx' else EngineOptions()\n"
        "    kinds, left = engine_kinds(('onnxruntime', kind), options, stages)\n"
        "    found.append([kinds, [item.kind for item in left], stages.notes])\n"
        "answer(found)"
    )
    for kind, (kinds, left, notes) in zip(broken, answer_of(code, tmp_path), strict=True):
        assert (kinds, left) == (["onnxruntime"], [kind])
        assert notes[0].startswith(f"left out: engine {kind} cannot be built: ")
        assert BROKEN in notes[0]


def test_onnx_runtime_is_broken(tmp_path: Path) -> None:
    code = (
        f"{CHECK}try: engine_kinds(('auto',), EngineOptions(), stages)\nexcept ExportError as error: answer(str(error))"
    )
    said = answer_of(code, break_library(tmp_path, "onnxruntime"))
    assert said.startswith(f"engine onnxruntime cannot be built: ONNX Runtime {BROKEN}: ")


def test_auto_of_quantized_bundles_goes_on_without_tensorrt_rtx(tmp_path: Path) -> None:
    code = (
        f"{CHECK}from exporter.precision.precisions import PRECISIONS\nimport exporter.builders.registry as own\n"
        "own.gpu_missing = lambda: 'none'\n"
        "kinds, _ = quantized_defaults(('auto',), EngineOptions(), PRECISIONS['int8'], stages)\n"
        "try: quantized_defaults(('auto',), EngineOptions(), PRECISIONS['fp8'], stages)\n"
        "except ExportError as error: answer([kinds, stages.notes, str(error)])"
    )
    kinds, notes, said = answer_of(code, break_library(tmp_path, "tensorrt_rtx"))
    assert kinds == ["onnxruntime"]
    assert notes[0].startswith(f"left out: engine tensorrt-rtx cannot be built: tensorrt_rtx {BROKEN}")
    assert BROKEN in said


@pytest.mark.parametrize("module", ["torch", "open_clip"])
def test_what_every_export_needs_is_broken(tmp_path: Path, module: str) -> None:
    first = break_library(tmp_path, module)
    ran = run_python("-m", "exporter", "demo", "--out", str(tmp_path / "out"), first=first)
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1].startswith(f"error: exporting needs {module}, which {BROKEN}")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("module", "code"),
    [
        ("torch", "raise RuntimeError('it is broken')"),
        ("safetensors", "raise SystemExit('it is broken')"),
        pytest.param("torch", "raise SystemExit('it is broken')", marks=pytest.mark.slow),
        pytest.param("safetensors", "raise RuntimeError('it is broken')", marks=pytest.mark.slow),
    ],
)
def test_what_a_conversion_needs_is_broken(tmp_path: Path, module: str, code: str) -> None:
    first = break_library(tmp_path, module, code)
    ran = run_python("-m", "exporter.convert_checkpoint", str(tmp_path / "a.pt"), "b.safetensors", first=first)
    assert ran.returncode == 1
    [line] = ran.stderr.splitlines()
    assert line.startswith(f"error: converting needs {module}, which is installed and cannot be imported (")
    assert "it is broken): mend that" in line


def test_kernels_without_a_triton_that_works(tmp_path: Path) -> None:
    code = (
        "import sys, torch, kernels.swap\nfrom kernels.add_layer_norm import _OP\nfrom kernels.library import interpreted\n"
        "answer([interpreted(), 'triton' in sys.modules])"
    )
    assert answer_of(code, break_library(tmp_path, "triton")) == [False, False]


def test_libraries_that_an_export_does_not_need(tmp_path: Path) -> None:
    """All of them are broken at once, and the bundle with ONNX Runtime's engine is written and verifies.

    Triton and cuda-bindings are not among them: PyTorch imports both, and takes no other error than an ImportError from them.
    """
    for library in ("openvino", "tensorrt", "tensorrt_rtx", "pyarrow", "pillow_heif", "nncf"):
        break_library(tmp_path / "broken", library, "raise RuntimeError('it is broken')")
    out = str(tmp_path / "out")
    words = ("-m", "exporter", "demo", "--towers", "text", "--parity-samples", "4", "--out", out)
    ran = run_python(*words, first=tmp_path / "broken")
    assert ran.returncode == 0, ran.stderr
    verified = run_python("-m", "engines", "verify", out, first=tmp_path / "broken")
    assert verified.returncode == 0, verified.stderr
