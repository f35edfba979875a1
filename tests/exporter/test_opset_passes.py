"""exporter.graphs: each pass for older opsets by itself, on graphs that no tower has as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from exporter.errors import ExportError
from exporter.graphs.decompose_attention import decompose_attention
from exporter.graphs.decompose_gelu import decompose_gelu
from exporter.graphs.lower_opset import lower_opset

N, H, L, S, D = 2, 3, 5, 7, 8
FLOAT, HALF, BOOL = TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BOOL
RANDOM = np.random.default_rng(0)
KEYS = RANDOM.random((N, 1, L, S)) > 0.4
KEYS[..., 0] = True  # each query sees a key


def attention(
    dtype: int, mask: tuple[int, tuple[Any, ...]] | None = None, keys: int = S, **attributes: Any
) -> ir.Model:
    """Two attentions, one behind the other, so that they can share masks; batch and lengths are dynamic."""
    s = "S" if keys == S else "L"
    inputs = [("q", dtype, ("N", H, "L", D)), ("k", dtype, ("N", H, s, D)), ("v", dtype, ("N", H, s, D))]
    names = ["q", "k", "v"]
    if mask is not None:
        inputs.append(("mask", *mask))
        names.append("mask")
    nodes = [
        helper.make_node("Attention", names, ["first"], **attributes),
        helper.make_node("Attention", ["first", *names[1:]], ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "attention",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info("y", dtype, ("N", H, "L", D))],
        value_info=[helper.make_tensor_value_info("first", dtype, ("N", H, "L", D))],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10))


def lowered(model: ir.Model, opset: int = 18) -> onnx.ModelProto:
    decompose_attention(model)
    lower_opset(model, opset)
    proto: onnx.ModelProto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, inputs)[0]
    return result


@pytest.mark.parametrize(
    ("mask", "values", "keys", "attributes", "where"),
    [
        (None, None, S, {}, 0),
        (None, None, S, {"scale": 0.7}, 0),
        (None, None, S, {"softmax_precision": FLOAT}, 0),
        (None, None, L, {"is_causal": 1}, 1),
        ((BOOL, ("N", 1, "L", "S")), KEYS, S, {}, 1),
        ((BOOL, ("L", "S")), KEYS[0, 0], S, {}, 1),
        ((FLOAT, ("N", 1, "L", "S")), np.where(KEYS, 0.3, -9.0).astype(np.float32), S, {}, 0),
        ((BOOL, ("N", 1, "L", "L")), KEYS[..., :L], L, {"is_causal": 1}, 2),
    ],
    ids=["plain", "scale", "softmax-precision", "causal", "keys", "positions", "additive", "keys-causal"],
)
def test_attention(mask: Any, values: Any, keys: int, attributes: dict[str, Any], where: int) -> None:
    """Against PyTorch's scaled_dot_product_attention; two blocks share their masks."""
    model = attention(FLOAT, mask, keys, **attributes)
    proto = lowered(model)
    assert sum(node.op_type == "Where" for node in proto.graph.node) == where
    assert not any(node.op_type == "Attention" for node in proto.graph.node)
    shapes = {"q": (N, H, L, D), "k": (N, H, keys, D), "v": (N, H, keys, D)}
    inputs = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    q, k, v = (torch.from_numpy(inputs[name]) for name in "qkv")
    allowed: torch.Tensor | None = None
    if values is not None:
        inputs["mask"] = values
        allowed = torch.from_numpy(values)
    if "is_causal" in attributes:
        causal = torch.ones(L, keys).tril().bool()
        allowed = causal if allowed is None else allowed & causal
    expected = q
    for _ in range(2):
        expected = torch.nn.functional.scaled_dot_product_attention(
            expected, k, v, attn_mask=allowed, scale=attributes.get("scale")
        )
    np.testing.assert_allclose(run(proto, inputs), expected.numpy(), atol=2e-6)


def test_float16_does_not_overflow_before_the_scale() -> None:
    """q k^T is beyond float16's range, and scaled it is not; numpy computes in float16, ONNX Runtime's CPU kernels do not."""
    proto = lowered(attention(HALF))
    q = np.full((1, H, 1, D), 120.0, np.float16)
    k = np.full((1, H, S, D), 120.0, np.float16)
    k[:, :, 1:] = 0.0
    v = RANDOM.normal(size=(1, H, S, D)).astype(np.float16)
    with np.errstate(over="raise", invalid="raise"):
        first = ReferenceEvaluator(proto).run(["first"], {"q": q, "k": k, "v": v})[0]
    np.testing.assert_array_equal(first, v[:, :, :1])


def test_softmax_precision_of_float16() -> None:
    kinds = {
        precision: [node.op_type for node in lowered(attention(HALF, **attributes)).graph.node]
        for precision, attributes in {"float16": {}, "float32": {"softmax_precision": FLOAT}}.items()
    }
    assert "Cast" not in kinds["float16"]
    at = kinds["float32"].index("Softmax")
    assert kinds["float32"][at - 1 : at + 2] == ["Cast", "Softmax", "Cast"]


@pytest.mark.parametrize("attributes", [{"softcap": 2.0}, {"qk_matmul_output_mode": 3}])
def test_an_attention_that_cannot_be_written_is_named(attributes: dict[str, Any]) -> None:
    model = attention(FLOAT, **attributes)
    assert decompose_attention(model) == 0
    with pytest.raises(ExportError, match="--opset 22 cannot express Attention of float: pass --opset 23"):
        lower_opset(model, 22)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str, tmp_path: Path) -> None:
    """The values are PyTorch's, and ONNX Runtime's optimizer makes one kernel of the one with Erf again."""
    value = helper.make_tensor_value_info("x", FLOAT, ("N", 6))
    nodes = [helper.make_node("Gelu", ["x"], ["y"], approximate=approximate)]
    graph = helper.make_graph(nodes, "gelu", [value], [helper.make_tensor_value_info("y", FLOAT, ("N", 6))])
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9))
    assert decompose_gelu(model) == 1
    assert lower_opset(model, 18) == 0
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    if approximate == "none":
        assert [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node] == ["Gelu"]
    x = np.linspace(-9, 9, 60, dtype=np.float32).reshape(10, 6)
    expected = torch.nn.functional.gelu(torch.from_numpy(x), approximate=approximate).numpy()
    np.testing.assert_allclose(session.run(None, {"x": x})[0], expected, atol=1e-6)


def quantized(zero: int) -> ir.Model:
    """x in float16, quantized and dequantized with attributes of opset 23 at their defaults."""
    dtype = helper.tensor_dtype_to_np_dtype(zero)
    weights = [
        numpy_helper.from_array(np.float16(0.5), "scale"),
        helper.make_tensor("zero", zero, [], np.zeros(1, dtype).tobytes(), raw=True),
    ]
    nodes = [
        helper.make_node(
            "QuantizeLinear", ["x", "scale", "zero"], ["q"], axis=1, block_size=0, saturate=1, precision=0
        ),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], axis=1, block_size=0),
    ]
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", HALF, ("N", 4))],
        [helper.make_tensor_value_info("y", HALF, ("N", 4))],
        weights,
        value_info=[helper.make_tensor_value_info("q", zero, ("N", 4))],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11))


def test_quantization_of_float16_before_opset_19() -> None:
    """Both operators are of float32 only; the scale stays a constant, as TensorRT needs it, and the output is float16."""
    model = quantized(TensorProto.INT8)
    assert lower_opset(model, 18) == 2
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    assert [node.op_type for node in proto.graph.node] == ["Cast", "QuantizeLinear", "DequantizeLinear", "Cast"]
    for node in proto.graph.node[1:3]:
        assert [attribute.name for attribute in node.attribute] == ["axis"]
        assert node.input[1] == "scale.float32"
    x = np.array([[0.2, 0.3, -70.0, 99.0]], np.float16)
    assert run(proto, {"x": x}).dtype == np.float16
    np.testing.assert_array_equal(run(proto, {"x": x}), np.array([[0.0, 0.5, -64.0, 63.5]], np.float16))


def test_attributes_go_and_float16_stays_from_opset_19_on() -> None:
    for opset in (19, 20, 21, 22):
        model = quantized(TensorProto.FLOAT8E4M3FN)
        assert lower_opset(model, opset) == 0
        onnx.checker.check_model(ir.to_proto(model), full_check=True)


def test_float8_is_refused_before_opset_19() -> None:
    with pytest.raises(
        ExportError, match=r"--opset 18 cannot express QuantizeLinear of .*float8e4m3fn.*: pass --opset 19"
    ):
        lower_opset(quantized(TensorProto.FLOAT8E4M3FN), 18)


@pytest.mark.parametrize(("opset", "version"), [(18, 8), (19, 9), (20, 9), (21, 10), (22, 10)])
def test_ir_version_is_that_of_the_first_release_with_the_opset(opset: int, version: int) -> None:
    model = quantized(TensorProto.INT8)
    lower_opset(model, opset)
    assert (model.opset_imports[""], model.ir_version) == (opset, version)
