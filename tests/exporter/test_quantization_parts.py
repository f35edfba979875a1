"""Operators, scales, histograms, ranges and folds, each against its definition."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch import nn
from torch.nn import functional as F

from exporter.errors import ExportError
from exporter.quantization.choosing import choose_limit
from exporter.quantization.layers import (
    QuantizedConvolution,
    QuantizedLinear,
    QuantizedPatches,
    half_scale,
    is_patches,
    operand,
    quantized,
    round_weight,
)
from exporter.quantization.operators import LARGEST, dequantize, quantize, translations
from exporter.quantization.products import ProductLinear, ProductPatches, use_products
from exporter.quantization.ranges import BINS, Histogram
from exporter.quantization.smoothing import smoothing_factors
from exporter.quantization.statistics import Record

INT8, FP8 = torch.int8, torch.float8_e4m3fn


@pytest.mark.parametrize("axis", [0, 1])
def test_operators_pass_opcheck(axis: int) -> None:
    zero = torch.zeros((), dtype=INT8)
    torch.library.opcheck(torch.ops.openclip_engines.quantize, (torch.randn(3, 4), torch.tensor(0.1), zero))
    q = torch.randint(-127, 128, (3, 4), dtype=torch.int8)
    torch.library.opcheck(torch.ops.openclip_engines.dequantize, (q, torch.rand(q.shape[axis]), axis))


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=40),
    limit=st.floats(1e-3, 1e4),
)
def test_int8_rounds_as_onnx_does(values: list[float], limit: float) -> None:
    x, scale = torch.tensor(values), half_scale(torch.tensor(limit), INT8)
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, [None]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("z", TensorProto.INT8, []),
        ],
        [helper.make_tensor_value_info("y", TensorProto.INT8, [None])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    session = ort.InferenceSession(model.SerializeToString())
    wanted = session.run(None, {"x": x.numpy(), "s": scale.numpy(), "z": np.zeros((), np.int8)})[0]
    ours = quantize(x, scale, torch.zeros((), dtype=INT8)).numpy()
    # The library multiplies by 1 / scale: on the middle between two steps it may go the other way.
    assert np.abs(ours.astype(int) - wanted.astype(int)).max() <= 1
    assert (ours != wanted).mean() <= 0.05 or len(values) < 20


@settings(max_examples=60, deadline=None)
@given(limit=st.floats(0, 1e8))
@pytest.mark.parametrize("dtype", [INT8, FP8])
def test_scales_are_exact_in_float16(dtype: torch.dtype, limit: float) -> None:
    scale = half_scale(torch.tensor(limit), dtype)
    assert scale.dtype == torch.float32
    assert float(scale) > 0
    assert float(scale.half()) == float(scale)
    if 1.0 < limit < 1e6:
        assert float(scale) * LARGEST[dtype] == pytest.approx(limit, rel=1e-3)


@pytest.mark.parametrize("dtype", [INT8, FP8])
def test_weights_are_within_half_a_step(dtype: torch.dtype) -> None:
    weight = torch.randn(16, 40) * torch.logspace(-3, 2, 16)[:, None]
    weight[3] = 0.0
    rounded, scale = round_weight(weight, dtype)
    error = (rounded.float() * scale[:, None] - weight).abs()
    step = scale[:, None] / 2 if dtype == INT8 else weight.abs() / 16 + scale[:, None]
    assert bool((error <= step * 1.01 + 1e-12).all())
    assert rounded.dtype == dtype
    assert not bool(rounded[3].float().any())


LAYERS = {
    "linear": (nn.Linear(24, 10), (5, 7, 24), QuantizedLinear),
    "linear without bias": (nn.Linear(24, 10, bias=False), (5, 24), QuantizedLinear),
    "patches": (nn.Conv2d(3, 8, 4, 4), (2, 3, 12, 16), QuantizedPatches),
    "patches, input not a multiple": (nn.Conv2d(3, 8, 4, 4), (2, 3, 13, 18), QuantizedPatches),
    "convolution": (nn.Conv2d(6, 8, 3, padding=1), (2, 6, 9, 9), QuantizedConvolution),
    "strided": (nn.Conv2d(6, 8, 3, stride=2, padding=1), (2, 6, 9, 9), QuantizedConvolution),
    "pointwise": (nn.Conv2d(6, 8, 1), (2, 6, 5, 5), QuantizedConvolution),
}


@pytest.mark.parametrize("dtype", [INT8, FP8])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_compute_their_product(name: str, dtype: torch.dtype) -> None:
    layer, shape, kind = LAYERS[name]
    x = torch.randn(shape)
    with torch.inference_mode():
        ours = quantized(layer, dtype, float(x.abs().max()))
        wanted, found = layer(x), ours(x)
        assert isinstance(ours, kind)
        assert found.shape == wanted.shape
        noise = (found - wanted).norm() / wanted.norm()
        assert noise < (0.03 if dtype == INT8 else 0.08)
        assert noise > 1e-5, "nothing was rounded"
        ours.exact = True
        assert torch.equal(ours(x), wanted)


@pytest.mark.parametrize("name", ["linear", "patches", "convolution"])
@pytest.mark.parametrize("half", [False, True])
def test_layers_trace_to_one_pair_for_each_operand(name: str, half: bool, tmp_path: Path) -> None:
    layer, shape, _ = LAYERS[name]
    x = torch.randn(shape)
    ours = quantized(layer, INT8, 3.0)
    ours.settle()
    wanted = ours(x)
    if half:
        ours, x = ours.half(), x.half()
    with torch.inference_mode():
        program = torch.onnx.export(
            ours.eval(), (x,), dynamo=True, opset_version=23, custom_translation_table=translations(), verbose=False
        )
    assert program is not None
    program.save(tmp_path / "x.onnx")
    graph = onnx.load(tmp_path / "x.onnx").graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert kinds.count("DequantizeLinear") == 2
    assert {i.data_type for i in graph.initializer} >= {TensorProto.INT8}
    if half:
        assert TensorProto.FLOAT not in {i.data_type for i in graph.initializer}
        return
    session = ort.InferenceSession(tmp_path / "x.onnx")
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    np.testing.assert_allclose(found, wanted.detach().numpy(), atol=2e-2)


@pytest.mark.parametrize("dtype", [INT8, FP8])
@pytest.mark.parametrize("name", [name for name, case in LAYERS.items() if case[2] is not QuantizedConvolution])
def test_products_are_their_layers(name: str, dtype: torch.dtype) -> None:
    """What AOTInductor compiles gives what the Q/DQ graph gives, whatever the sides are multiples of."""
    layer, shape, kind = LAYERS[name]
    pairs = quantized(layer, dtype, 3.0)
    tower = nn.Sequential(pairs)
    assert use_products(tower) == 1  # type: ignore[arg-type]
    product = ProductPatches if kind is QuantizedPatches else ProductLinear
    assert type(tower[0]) is product
    with torch.inference_mode():
        x = torch.randn(shape)
        torch.testing.assert_close(tower(x), pairs(x), atol=1e-5, rtol=1e-5)


def test_convolutions_have_no_such_product() -> None:
    tower = nn.Sequential(quantized(nn.Conv2d(6, 8, 3), INT8, 3.0))
    with pytest.raises(ExportError, match="no quantized convolutions"):
        use_products(tower)  # type: ignore[arg-type]


@settings(max_examples=30, deadline=None)
@given(parts=st.lists(st.tuples(st.floats(1e-6, 1e6), st.integers(1, 50)), min_size=1, max_size=6))
def test_histograms_count_everything(parts: list[tuple[float, int]]) -> None:
    histogram = Histogram()
    for largest, count in parts:
        histogram.add(torch.linspace(0, largest, count) if count > 1 else torch.tensor([largest]))
    assert float(histogram.counts.sum()) == sum(count for _, count in parts)
    assert histogram.largest == pytest.approx(max(largest for largest, _ in parts), rel=1e-6)
    assert histogram.top >= histogram.largest * (1 - 1e-6)
    for name, limit in histogram.candidates(INT8).items():
        assert 0 < limit <= histogram.largest, name


def test_percentiles_leave_outliers_out() -> None:
    histogram = Histogram()
    histogram.add(torch.cat((torch.rand(100_000), torch.tensor([1000.0]))))
    found = histogram.candidates(INT8)
    assert found["max"] == 1000.0
    assert found["percentile 99.99"] <= 1.0 + 1000.0 / BINS * 2
    assert found["percentile 99.9999"] > 500.0


def test_the_least_squares_of_uniform_values_is_all_of_them() -> None:
    histogram = Histogram()
    histogram.add(torch.rand(100_000))
    assert histogram.candidates(INT8)["mse"] > 0.95


def test_nothing_but_zeros_has_no_range() -> None:
    record = Record(0, with_histogram=True)
    record.add(torch.zeros(10, 4), 10)
    with pytest.raises(ValueError, match="zero"):
        choose_limit(nn.Linear(4, 3), record, INT8)


def test_the_output_decides_about_the_range() -> None:
    """An outlier that the weight ignores is clipped; one that it needs is kept."""
    torch.manual_seed(0)
    x = torch.randn(4096, 32)
    x[::50, 0] *= 100.0
    found = {}
    for column in (0.0, 1.0):
        layer = nn.Linear(32, 16)
        layer.weight.data[:, 0] *= column
        record = Record(0, with_histogram=True)
        record.add(x, len(x))
        found[column] = choose_limit(layer, record, INT8)[1]
    assert found[0.0] < 20.0 < found[1.0]


def test_rows_are_kept_evenly_and_extremes_too() -> None:
    record = Record(0, with_histogram=False)
    for i in range(20):
        rows = torch.full((100, 3), float(i))
        rows[0] = 1000.0 + i
        record.add(rows, 1)
    assert len(record.even_rows) == 192
    assert len(set(record.even_rows[:, 0].tolist())) > 15
    assert record.extreme_rows[:20, 0].min() >= 1000.0
    assert record.samples == 20


def test_convolutions_are_seen_as_rows() -> None:
    patches, other = nn.Conv2d(3, 5, 4, 4), nn.Conv2d(6, 5, 3)
    x = torch.randn(2, 3, 8, 12)
    rows = operand(patches, x)
    wanted = patches(x).movedim(1, -1).reshape(-1, 5)
    torch.testing.assert_close(F.linear(rows, patches.weight.flatten(1), patches.bias), wanted)
    assert operand(other, torch.randn(2, 6, 5, 5)).shape == (50, 6)
    assert is_patches(patches)
    assert not is_patches(other)
    assert not is_patches(nn.Conv2d(3, 5, 1))


@settings(max_examples=30, deadline=None)
@given(strength=st.floats(0, 1), seed=st.integers(0, 10))
def test_smoothing_factors_are_moderate(strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    largest = torch.rand(64, generator=generator) * 100
    largest[0], largest[1] = 0.0, 1e6
    factors = smoothing_factors(largest, torch.rand(64, generator=generator), strength)
    assert bool(torch.isfinite(factors).all())
    assert float(factors.min()) >= 1e-3
    assert float(factors.max()) <= 1e3
    if strength == 0:
        assert torch.equal(factors, torch.ones(64))


def test_dequantizing_float8_is_exact() -> None:
    x = torch.linspace(-448, 448, 1001)
    q = quantize(x, torch.tensor(1.0), torch.zeros((), dtype=FP8))
    back = dequantize(q, torch.tensor(1.0), 0)
    assert torch.equal(back, x.to(FP8).float())
    assert float(quantize(torch.tensor([1e9]), torch.tensor(1.0), torch.zeros((), dtype=FP8)).float()) == 448.0
