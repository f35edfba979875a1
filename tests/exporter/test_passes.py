"""exporter.graphs.passes: each rewrite does what it says and nothing else; the graph still computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from exporter.graphs.fold_weight_transposes import fold_weight_transposes
from exporter.graphs.passes import PASSES, run_passes
from exporter.graphs.share_reshape_targets import share_reshape_targets
from exporter.graphs.strip_metadata import strip_metadata


class Heads(nn.Module):
    """Two linears over heads: every pass has something to do in it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(12, 24), nn.Linear(24, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.first(x).unflatten(-1, (4, 6)).transpose(1, 2)
        return self.second(heads.relu().transpose(1, 2).flatten(2))


@pytest.fixture
def traced() -> tuple[ir.Model, Heads]:
    module = Heads().eval()
    dynamic = ({0: torch.export.Dim("N", min=1), 1: torch.export.Dim("L", min=2, max=77)},)
    program = torch.onnx.export(
        module,
        (torch.zeros(2, 5, 12),),
        dynamo=True,
        opset_version=23,
        optimize=False,
        dynamic_shapes=dynamic,
        verbose=False,
    )
    assert program is not None
    return program.model, module


def outputs(model: ir.Model, x: np.ndarray, folder: Path) -> np.ndarray:
    ir.save(model, folder / "model.onnx")
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


def test_all_passes_keep_the_function(traced: tuple[ir.Model, Heads], tmp_path: Path) -> None:
    model, module = traced
    x = np.random.default_rng(0).normal(size=(3, 7, 12)).astype(np.float32)
    expected = module(torch.from_numpy(x)).detach().numpy()
    matches = run_passes(model)
    assert list(matches) == [name for name, _ in PASSES]
    assert all(count > 0 for count in matches.values()), matches
    np.testing.assert_allclose(outputs(model, x, tmp_path), expected, atol=1e-6)


def test_passes_are_idempotent(traced: tuple[ir.Model, Heads]) -> None:
    model, _ = traced
    run_passes(model)
    assert run_passes(model) == {name: 0 for name, _ in PASSES}


def test_transposes_of_weights_are_lazy(traced: tuple[ir.Model, Heads]) -> None:
    model, module = traced
    assert fold_weight_transposes(model) == 2
    assert not any(node.op_type == "Transpose" and node.inputs[0].is_initializer() for node in model.graph)  # type: ignore[union-attr]
    lazy = [v.const_value for v in model.graph.initializers.values() if isinstance(v.const_value, ir.LazyTensor)]
    assert len(lazy) == 2
    np.testing.assert_array_equal(lazy[0].numpy(), module.first.weight.detach().numpy().T)


def test_reshape_targets_become_constants(traced: tuple[ir.Model, Heads]) -> None:
    model, _ = traced
    assert share_reshape_targets(model) == 2
    reshapes = [node for node in model.graph if node.op_type == "Reshape"]
    targets = [node.inputs[1].const_value.numpy().tolist() for node in reshapes]  # type: ignore[union-attr]
    assert targets == [[0, 0, 4, 6], [0, 0, 24]]
    assert not any(node.op_type in ("Shape", "Concat") for node in model.graph)


def test_metadata_goes(traced: tuple[ir.Model, Heads]) -> None:
    model, _ = traced
    assert strip_metadata(model) > 0
    assert strip_metadata(model) == 0


def test_half_weights_transpose_too(tmp_path: Path) -> None:
    module = Heads().eval().to(torch.float16)
    program = torch.onnx.export(module, (torch.zeros(2, 5, 12).half(),), dynamo=True, opset_version=23, optimize=False)
    assert program is not None
    run_passes(program.model)
    ir.save(program.model, tmp_path / "half.onnx")
    stored = [v.const_value for v in ir.load(tmp_path / "half.onnx").graph.initializers.values()]
    weight = next(t for t in stored if t is not None and tuple(t.shape) == (12, 24))
    np.testing.assert_array_equal(weight.numpy(), module.first.weight.detach().numpy().T)
