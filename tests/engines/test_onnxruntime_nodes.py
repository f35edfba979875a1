"""Which nodes of a graph on a GPU would run on the CPU: asked of real sessions, and told from the graph's file."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines.errors import BundleError, EngineUnavailableError
from engines.onnxruntime.cpu_nodes import RECORD_ASSIGNMENT, Node, check_nodes, cpu_nodes, refusal, shape_nodes, unasked


def session(path: Path) -> Any:
    """A session that runs everything on the CPU."""
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def shape_graph(path: Path) -> Path:
    """(N, 4) → (N * 2, 2) by shape arithmetic as exporters write it, and a product with a large weight."""
    nodes = [
        helper.make_node("Shape", ["x"], ["shape"], "shape"),
        helper.make_node("Gather", ["shape", "zero"], ["n"], "rows"),
        helper.make_node("Constant", [], ["two"], "constant_two", value=numpy_helper.from_array(np.int64(2))),
        helper.make_node("Mul", ["n", "two"], ["n2"], "twice"),
        helper.make_node("Unsqueeze", ["n2", "axis"], ["n2_"], "as_vector"),
        helper.make_node("Concat", ["n2_", "width"], ["target"], "target", axis=0),
        helper.make_node("Reshape", ["x", "target"], ["x_"], "reshape"),
        helper.make_node("Expand", ["token", "target"], ["tokens"], "expand_weight"),
        helper.make_node("Add", ["x_", "tokens"], ["y_"], "add"),
        helper.make_node("Neg", ["large"], ["negative_"], "negate_weight"),
        helper.make_node("Cast", ["negative_"], ["negative"], "cast_weight", to=TensorProto.FLOAT),
        helper.make_node("Clip", ["y_", "", "limit"], ["clipped"], "clip"),
        helper.make_node("MatMul", ["clipped", "negative"], ["y"], "product"),
    ]
    constants = {
        "zero": np.int64(0),
        "axis": np.array([0]),
        "width": np.array([2]),
        "limit": np.float32(1),
        "token": np.ones(2, np.float32),
        "large": np.ones((2, 64), np.int32),
    }
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 64])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def test_shapes_are_told_from_data_and_from_weights(tmp_path: Path) -> None:
    path = shape_graph(tmp_path / "g.onnx")
    assert session(path).run(None, {"x": np.zeros((3, 4), np.float32)})[0].shape == (6, 64)
    assert shape_nodes(path) == {"rows", "twice", "as_vector", "target"}


def test_sizes_that_are_not_packed_are_read(tmp_path: Path) -> None:
    path = shape_graph(tmp_path / "g.onnx")
    unpacked = path.read_bytes()
    # dims of "large" as protobuf writes them here: two fields 1, or one field 1 that holds both.
    for ours, other in ((b"\x08\x02\x08\x40", b"\x0a\x02\x02\x40"), (b"\x0a\x02\x02\x40", b"\x08\x02\x08\x40")):
        (tmp_path / "other.onnx").write_bytes(unpacked.replace(ours, other))
        assert "negate_weight" not in shape_nodes(tmp_path / "other.onnx")


def test_a_branch_may_read_what_is_not_among_its_inputs(tmp_path: Path) -> None:
    condition = numpy_helper.from_array(np.array(True), "condition")
    branches = {
        name: helper.make_graph(
            [helper.make_node("Identity", ["x"], [name])],
            name,
            [],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)],
        )
        for name in ("then_branch", "else_branch")
    }
    graph = helper.make_graph(
        [helper.make_node("If", ["condition"], ["y"], "branch", **branches)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [condition],
    )
    path = tmp_path / "g.onnx"
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), path)
    assert shape_nodes(path) == frozenset()


@pytest.mark.skipif(
    not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"),
    reason="this ONNX Runtime does not tell which nodes it runs where: 1.24 is the first that does",
)
def test_a_session_tells_what_it_runs_where(demo_bundle: Path) -> None:
    path = demo_bundle / "image.onnx"
    found = cpu_nodes(session(path))
    assert found is not None
    operators = {node.operator for node in found}
    assert {"Attention", "MatMul", "Conv", "Concat"} <= operators
    refused = unasked(found, path)
    assert {node.operator for node in refused} >= {"Attention", "MatMul", "Conv"}
    graph = onnx.load(path, load_external_data=False).graph
    # The shape that the class token is expanded to is put together on the CPU, by every release that was tried.
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    shapes = {node.name for node in graph.node if types.get(node.output[0]) == TensorProto.INT64} & shape_nodes(path)
    assert any(name in shapes for name in (node.name for node in found))
    assert not shapes & {node.name for node in refused}


@pytest.mark.parametrize("tower", ["image", "text"])
def test_the_shape_nodes_of_a_tower_compute_whole_numbers_only(demo_bundle: Path, tower: str) -> None:
    path = demo_bundle / f"{tower}.onnx"
    graph = onnx.shape_inference.infer_shapes(onnx.load(path, load_external_data=False)).graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    names = shape_nodes(path)
    produced = {types[output] for node in graph.node if node.name in names for output in node.output}
    assert produced <= {TensorProto.INT64, TensorProto.BOOL}


def test_releases_without_the_attention_kernel_are_refused_by_name(demo_bundle: Path) -> None:
    """What onnxruntime-gpu 1.24.4 leaves to the CPU of this graph, as its CUDA provider said: Attention, and one shape."""
    path = demo_bundle / "image.onnx"
    graph = onnx.load(path, load_external_data=False).graph
    attention = [Node(node.name, node.op_type) for node in graph.node if node.op_type == "Attention"]
    shape = Node(sorted(shape_nodes(path))[0], "Concat")
    groups = [
        SimpleNamespace(
            ep_name="CPUExecutionProvider",
            get_nodes=lambda node=node: [SimpleNamespace(name=node.name, op_type=node.operator, domain="")],
        )
        for node in [shape, *attention]
    ]
    groups.append(
        SimpleNamespace(ep_name="CUDAExecutionProvider", get_nodes=lambda: [SimpleNamespace(name="a", op_type="Add")])
    )
    asked = SimpleNamespace(get_provider_graph_assignment_info=lambda: groups)
    with pytest.raises(EngineUnavailableError) as refused:
        check_nodes(asked, path, "1.24.4")
    assert str(refused.value) == (
        f"ONNX Runtime 1.24.4 has no CUDA kernel for {len(attention)} nodes of image.onnx ({attention[0]}, {attention[1]}, "
        f"{attention[2]} and {len(attention) - 3} more) and would run them on the CPU, with copies there and back at every call: "
        "install onnxruntime-gpu 1.28 or newer, or load with device='cpu' (on the command line: --device cpu), or, in Python, with "
        "cpu_nodes='allow'"
    )
    check_nodes(SimpleNamespace(get_provider_graph_assignment_info=lambda: groups[:1]), path, "1.31.1")


def test_sentences() -> None:
    one = refusal([Node("node_argmax", "ArgMax")], "text.onnx", "1.31.1")
    assert one.startswith(
        "ONNX Runtime 1.31.1 has no CUDA kernel for 1 node of text.onnx (ArgMax node_argmax) and would run it"
    )
    assert "export the model again" in one
    other = refusal([Node("a", "Attention"), Node("b", "Foo")], "image.onnx", "1.31.0+cu13")
    assert "(Attention a, Foo b)" in other
    assert "install a newer onnxruntime-gpu" in other


def test_a_node_that_the_optimizer_made_counts(demo_bundle: Path) -> None:
    made = Node("fused 1", "FusedMatMul")
    assert unasked([made], demo_bundle / "image.onnx") == [made]


def test_a_release_that_cannot_tell_is_refused(demo_bundle: Path) -> None:
    with pytest.raises(
        EngineUnavailableError, match=r"1\.23\.0 does not tell which nodes .* 1\.28 .*--device cpu.*cpu_nodes"
    ):
        check_nodes(SimpleNamespace(), demo_bundle / "image.onnx", "1.23.0")


def test_damaged_files(tmp_path: Path) -> None:
    for data in (b"", b"\x3a\x7fcut"):
        path = tmp_path / "image.onnx"
        path.write_bytes(data)
        with pytest.raises(BundleError, match="is not an ONNX file, or is damaged"):
            shape_nodes(path)
    with pytest.raises(BundleError, match="cannot read"):
        shape_nodes(tmp_path / "missing.onnx")


def test_towers_ask_for_the_largest_of_floats_only(demo_bundle: Path) -> None:
    """The CUDA provider has no kernel for the largest of whole numbers: a text tower's ids went to the CPU at every call."""
    model = onnx.shape_inference.infer_shapes(onnx.load(demo_bundle / "text.onnx", load_external_data=False))
    types = {value.name: value.type.tensor_type.elem_type for value in [*model.graph.value_info, *model.graph.input]}
    searched = [node for node in model.graph.node if node.op_type in ("ArgMax", "ArgMin")]
    assert searched
    assert all(types[node.input[0]] == TensorProto.FLOAT for node in searched)
