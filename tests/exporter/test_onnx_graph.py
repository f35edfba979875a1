"""exporter.graphs.onnx_graph: graphs beyond protobuf's 2 GB, the exporter's chatter, and memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir
import onnxruntime
import pytest
import torch
from torch import nn

from engines.files.onnx_external_data import check_external_data, read_external_data
from exporter.graphs.onnx_graph import export_graph
from exporter.towers.modules import TextTower
from exporter.towers.units import Encoder, TextEncoder


class WideHead(nn.Module):
    """One linear layer as large as asked for."""

    def __init__(self, width: int) -> None:
        super().__init__()
        with torch.device("meta"):
            self.linear = nn.Linear(width, width, bias=False)
        self.linear.weight = nn.Parameter(torch.full((width, width), 1e-3), requires_grad=False)

    def forward(self, x: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        return self.linear(x.sum(dim=1))


class WideStem(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, ids: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ids.float().unsqueeze(-1).expand(-1, -1, self.width), None


def wide_tower(width: int) -> TextTower:
    encoder: Encoder = TextEncoder(WideStem(width), [], WideHead(width))
    return TextTower(encoder.eval())


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    width = 24_000  # 2.3 GB of float32
    graph = export_graph(wide_tower(width), torch.ones(2, 4, dtype=torch.int32), tmp_path / "text.onnx")
    assert graph.bytes > 2**31
    assert graph.path.stat().st_size < 100_000
    check_external_data(tmp_path, graph.path.name, {f"{graph.path.name}.data"})
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    embeds = session.run(None, {"ids": np.ones((3, 4), np.int32)})[0]
    np.testing.assert_allclose(embeds, np.full((3, width), width**-0.5), rtol=1e-4)


def test_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder) -> None:
    export_graph(wide_tower(64), torch.ones(2, 4, dtype=torch.int32), tmp_path / "text.onnx")
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""
    assert not [str(w.message) for w in recwarn if "onnx" in str(w.message).lower()]


def test_nothing_but_two_files_is_written(tmp_path: Path) -> None:
    graph = export_graph(wide_tower(64), torch.ones(2, 4, dtype=torch.int32), tmp_path / "text.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text.onnx", "text.onnx.data"]
    assert graph.bytes == sum(path.stat().st_size for path in tmp_path.iterdir())


def test_weights_start_at_page_boundaries(tmp_path: Path) -> None:
    """With any onnx-ir that pyproject allows: the runtime maps large weights, and copies those that lie elsewhere."""
    graph = export_graph(wide_tower(600), torch.ones(2, 4, dtype=torch.int32), tmp_path / "text.onnx")
    (weight,) = read_external_data(graph.path)
    assert weight.length == 4 * 600 * 600
    assert weight.offset % 4096 == 0
    session = onnxruntime.InferenceSession(str(graph.path), providers=["CPUExecutionProvider"])
    embeds = session.run(None, {"ids": np.ones((3, 4), np.int32)})[0]
    np.testing.assert_allclose(embeds, np.full((3, 600), 600**-0.5), rtol=1e-4)


def test_an_older_onnx_ir_takes_no_alignment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """1.0 aligns by itself, and its `save` refuses the keywords."""
    newest = onnx_ir.save

    def save(model: onnx_ir.Model, path: Path, format: str | None = None, external_data: str | None = None) -> None:
        newest(model, path, format=format, external_data=external_data)

    monkeypatch.setattr(onnx_ir, "save", save)
    graph = export_graph(wide_tower(64), torch.ones(2, 4, dtype=torch.int32), tmp_path / "text.onnx")
    check_external_data(tmp_path, graph.path.name, {f"{graph.path.name}.data"})


def test_bf16_widened_graph_computes_the_same(tmp_path: Path) -> None:
    from shallow import register

    from exporter.graphs.onnx_graph import example_input
    from exporter.graphs.widen_graph import widen_graph
    from exporter.precision.precisions import PrecisionPlan, apply_plan
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower

    source = load_source(register("EVA02-B-16", tmp_path, narrow=True), "none", with_tokenizer=False)
    tower = image_tower(source.model, source.preprocess)
    pixels = torch.randint(0, 256, (2, 224, 224, 3), dtype=torch.uint8)
    with torch.inference_mode():
        exact = tower(pixels).numpy()
    apply_plan(tower, PrecisionPlan(torch.bfloat16, torch.bfloat16, {"blocks.0.mlp": "a test"}))
    graph = export_graph(tower, example_input(tower, (224, 224), 0), tmp_path / "image.onnx")
    assert widen_graph(graph.path, tmp_path / "wide.onnx") > 10
    session = onnxruntime.InferenceSession(str(tmp_path / "wide.onnx"), providers=["CPUExecutionProvider"])
    got = session.run(None, {"pixels": pixels.numpy()})[0]
    assert (got * exact).sum(axis=1).min() > 0.999
