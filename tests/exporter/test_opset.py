"""``--opset``: the towers in the operators of older opsets compute the same, and hold nothing that came later."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import helper
from shallow import FAMILIES
from shallow_towers import LENGTH, shallow_source, shallow_tower

from exporter.__main__ import main
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.graphs.opset_rules import is_allowed
from exporter.graphs.passes import run_passes
from exporter.graphs.widen_graph import widen_graph
from exporter.precision.precisions import PrecisionPlan, apply_plan
from exporter.towers.modules import TowerModule

OPSETS = (18, 20, 21, 22)
# Causal masks; boolean masks of keys; convolutions and attention over a map.
FAST = (("ViT-B-32", "text"), ("roberta-ViT-B-32", "text"), ("MobileCLIP2-S0", "image"))
CASES = [
    pytest.param(family, kind, id=f"{family}-{kind}", marks=[] if (family, kind) in FAST else [pytest.mark.long])
    for family in FAMILIES
    for kind in ("image", "text")
]


def tower_and_input(family: str, kind: str) -> tuple[TowerModule, torch.Tensor, torch.Tensor]:
    """A shallow tower, the example to trace it with, and rows of another batch size and text length."""
    source = shallow_source(family)
    tower = shallow_tower(source, kind)
    example = example_input(tower, source.preprocess.size, 9)
    random = torch.Generator().manual_seed(0)
    if kind == "image":
        rows = torch.randint(0, 256, (3, *example.shape[1:]), dtype=torch.uint8, generator=random)
    else:
        rows = torch.randint(2, 990, (3, 13), dtype=torch.int32, generator=random)
        rows[1, 8:] = 1  # padding, for towers with masks of keys
    return tower, example, rows


def check_nodes(path: Path, opset: int) -> ir.Model:
    """Check a file: onnx's own checker, the opset and IR version, and that each node is the opset's, dtypes included."""
    onnx.checker.check_model(str(path), full_check=True)
    model = ir.load(path)
    assert dict(model.opset_imports) == {"": opset}
    assert model.ir_version <= helper.OP_SET_ID_VERSION_MAP["ai.onnx", opset]
    assert [node.op_type for node in model.graph if not is_allowed(node, opset)] == []
    assert opset >= 20 or "Gelu" not in {node.op_type for node in model.graph}
    return model


def embed(path: Path, tower: TowerModule, rows: torch.Tensor) -> np.ndarray:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    embeds: np.ndarray = session.run(None, {tower.input_name: rows.numpy()})[0]
    return embeds


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_older_opsets_compute_the_same(family: str, kind: str, tmp_path: Path) -> None:
    tower, example, rows = tower_and_input(family, kind)
    with torch.inference_mode():
        expected = tower(rows).numpy()
    graph = export_graph(tower, example, tmp_path / f"{kind}.onnx", LENGTH if kind == "text" else None)
    attentions, gelus = graph.operators.get("Attention", 0), graph.operators.get("Gelu", 0)
    assert attentions + gelus > 0
    for opset in OPSETS:
        model = ir.load(graph.path)
        matches = run_passes(model, opset)
        assert matches["decompose_attention"] == attentions
        assert matches.get("decompose_gelu", 0) == (gelus if opset < 20 else 0)
        path = tmp_path / f"{opset}.onnx"
        ir.save(model, path, external_data=f"{opset}.data")
        check_nodes(path, opset)
        np.testing.assert_allclose(embed(path, tower, rows), expected, atol=1e-5, err_msg=f"opset {opset}")


def export_as(family: str, kind: str, dtype: torch.dtype, opset: int, folder: Path) -> tuple[OnnxGraph, Any, Any, Any]:
    tower, example, rows = tower_and_input(family, kind)
    with torch.inference_mode():
        expected = tower(rows).numpy()
    apply_plan(tower, PrecisionPlan(dtype, dtype))
    length = LENGTH if kind == "text" else None
    return export_graph(tower, example, folder / f"{kind}.onnx", length, opset), tower, rows, expected


def test_float16_stays_float16(tmp_path: Path) -> None:
    graph, tower, rows, expected = export_as("ViT-B-32", "text", torch.float16, 18, tmp_path)
    assert graph.opset == 18
    assert graph.passes["lower_opset"] == 0
    model = check_nodes(graph.path, 18)
    softmax = [node for node in model.graph if node.op_type in ("Softmax", "Erf", "MatMul")]
    assert {node.outputs[0].dtype for node in softmax} == {ir.DataType.FLOAT16}
    # All blocks share the causal mask.
    assert graph.operators["Where"] == 1
    assert (embed(graph.path, tower, rows) * expected).sum(axis=1).min() > 0.9999


def test_bfloat16_convolutions_compute_in_float32(tmp_path: Path) -> None:
    """Conv takes bfloat16 since opset 22."""
    graph, tower, rows, expected = export_as("ViT-B-32", "image", torch.bfloat16, 21, tmp_path)
    assert graph.passes["lower_opset"] == 1
    model = check_nodes(graph.path, 21)
    convolution = next(node for node in model.graph if node.op_type == "Conv")
    weight = convolution.inputs[1]
    assert weight is not None
    assert weight.is_initializer()
    assert weight.dtype == ir.DataType.FLOAT
    assert not [v for v in model.graph.initializers.values() if not v.uses()]
    widen_graph(graph.path, tmp_path / "wide.onnx")
    assert (embed(tmp_path / "wide.onnx", tower, rows) * expected).sum(axis=1).min() > 0.999


@pytest.mark.long
@pytest.mark.parametrize(
    ("family", "kind", "precision", "opset"),
    [
        ("ViT-B-32", "text", torch.float16, 18),
        ("roberta-ViT-B-32", "text", torch.float16, 20),
        ("ViT-B-32", "image", torch.float32, 22),
    ],
)
def test_tensorrt_rtx_builds(family: str, kind: str, precision: torch.dtype, opset: int, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    from exporter.tensorrt.job import BuildJob, run_job

    graph = export_as(family, kind, precision, opset, tmp_path)[0]
    sizes = [
        [n if isinstance(n, int) else (batch if n == "N" else tokens) for n in graph.input.shape]
        for batch, tokens in ((1, 3), (2, 16), (4, 77))
    ]
    plan = tmp_path / "engine.plan"
    job = BuildJob(
        kind="tensorrt-rtx",
        graph=str(graph.path),
        plan=str(plan),
        inspector=str(tmp_path / "engine.json"),
        target="sm80",
        input=graph.input.name,
        shapes=(tuple(map(tuple, sizes)),),
    )
    built = run_job(job).build
    assert plan.stat().st_size > 0.5 * graph.bytes
    assert built.layers["SOFTMAX"] == {"HALF" if precision == torch.float16 else "FLOAT": 2}


@pytest.mark.parametrize("opset", ["17", "24"])
def test_other_opsets_are_refused(opset: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--opset", opset, "--out", str(tmp_path / "out")]) == 1
    assert f"opset {opset} is none of 18 to 23" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_fp8_needs_opset_19(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                "demo",
                "--fp8",
                "--opset",
                "18",
                "--engine",
                "tensorrt-rtx",
                "--target",
                "sm89",
                "--out",
                str(tmp_path / "out"),
            ]
        )
        == 1
    )
    assert "fp8 needs ONNX's opset 19: pass --opset 19 or newer" in capsys.readouterr().err
