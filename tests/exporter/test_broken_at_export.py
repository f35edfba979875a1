"""The exporter where a library is installed and broken: an engine is left out, or one sentence says what is wrong."""

from __future__ import annotations

import os
import subprocess
import sys
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


# A function that asks for engines whose libraries are broken beside the one of ONNX Runtime.
ASK = """
def ask(*kinds):
    found = []
    for kind in kinds:
        stages = Stages(None)
        options = EngineOptions(targets=('sm80',)) if kind == 'tensorrt-rtx' else EngineOptions()
        built, left = engine_kinds(('onnxruntime', kind), options, stages)
        found.append([built, [item.kind for item in left], stages.notes])
    return found
"""


def check_left_out(kind: str, kinds: list[str], left: list[str], notes: list[str]) -> None:
    assert (kinds, left) == (["onnxruntime"], [kind])
    assert notes[0].startswith(f"left out: engine {kind} cannot be built: ")
    assert BROKEN in notes[0]


@pytest.mark.parametrize(("kind", "module"), [("aotinductor", "torch"), ("tensorrt-rtx", "polygraphy")])
def test_an_engine_whose_library_is_broken_is_left_out(tmp_path: Path, kind: str, module: str) -> None:
    if module == "polygraphy":
        pytest.importorskip("tensorrt_rtx")
    (found,) = answer_of(f"{CHECK}{ASK}answer(ask({kind!r}))", break_library(tmp_path, module))
    check_left_out(kind, *found)


def test_openvino_and_tensorrt_rtx_are_broken(tmp_path: Path) -> None:
    """Each is left out, and ``auto`` of quantized bundles goes on without TensorRT-RTX."""
    code = (
        f"{CHECK}{ASK}from exporter.precision.precisions import PRECISIONS\nimport exporter.builders.registry as own\n"
        "asked = ask('openvino', 'tensorrt-rtx')\nown.gpu_missing = lambda: 'none'\n"
        "kinds, _ = quantized_defaults(('auto',), EngineOptions(), PRECISIONS['int8'], stages)\n"
        "try: quantized_defaults(('auto',), EngineOptions(), PRECISIONS['fp8'], stages)\n"
        "except ExportError as error: answer([asked, kinds, stages.notes, str(error)])"
    )
    for module in ("openvino", "tensorrt_rtx"):
        break_library(tmp_path, module)
    asked, kinds, notes, said = answer_of(code, tmp_path)
    for kind, found in zip(("openvino", "tensorrt-rtx"), asked, strict=True):
        check_left_out(kind, *found)
    assert kinds == ["onnxruntime"]
    assert notes[0].startswith(f"left out: engine tensorrt-rtx cannot be built: tensorrt_rtx {BROKEN}")
    assert BROKEN in said


def test_onnx_runtime_is_broken(tmp_path: Path) -> None:
    code = (
        f"{CHECK}try: engine_kinds(('auto',), EngineOptions(), stages)\nexcept ExportError as error: answer(str(error))"
    )
    said = answer_of(code, break_library(tmp_path, "onnxruntime"))
    assert said.startswith(f"engine onnxruntime cannot be built: ONNX Runtime {BROKEN}: ")


@pytest.mark.parametrize("module", ["torch", pytest.param("open_clip", marks=pytest.mark.long)])
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


@pytest.mark.long
def test_libraries_that_an_export_does_not_need(tmp_path: Path) -> None:
    """All of them are broken at once, and the bundle with ONNX Runtime's engine is written and verifies.

    Triton and cuda-bindings are not among them: PyTorch imports both, and takes no other error than an ImportError from them.
    """
    for library in ("openvino", "tensorrt", "tensorrt_rtx", "pyarrow", "pillow_heif", "nncf"):
        break_library(tmp_path / "broken", library, "raise RuntimeError('it is broken')")
    words = ["demo", "--towers", "text", "--parity-samples", "4", "--out", str(tmp_path / "out")]
    code = (
        "import exporter.__main__, engines.__main__\n"
        f"answer([exporter.__main__.main({words!r}), engines.__main__.main(['verify', {words[-1]!r}])])"
    )
    assert answer_of(code, tmp_path / "broken") == [0, 0]


@pytest.mark.parametrize("address", ["http://host:99999", "http://[::1"])
@pytest.mark.parametrize(
    "words",
    [
        ["exporter", "ViT-B-32", "--pretrained", "none", "--dry-run"],
        ["exporter", "--list", "ViT-B-32"],
        ["exporter.publishing", "bundle", "org/name"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_an_address_of_the_hub_that_cannot_be_read_is_no_broken_library(
    words: list[str], address: str, tmp_path: Path
) -> None:
    """The hub's client raises ValueError while it is imported, and open_clip imports it."""
    environment = {**os.environ, "HF_ENDPOINT": address, "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(
        [sys.executable, "-m", *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    error = (
        f"error: HF_ENDPOINT is {address!r}, which is no address: write one that begins with https://, or unset it\n"
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (1, "", error)
