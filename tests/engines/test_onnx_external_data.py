"""engines.files.onnx_external_data: agrees with the onnx package, refuses what leaves the bundle, and never falls over."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engines.errors import BundleError, EngineError
from engines.files.onnx_external_data import check_external_data, data_elsewhere, read_external_data
from engines.files.onnx_inline import inline_weights


def external(name: str, location: str, offset: int | None = None, length: int | None = None) -> TensorProto:
    tensor = helper.make_tensor(name, TensorProto.FLOAT, [1], np.zeros(1, np.float32))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", length)):
        if value is not None:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    return tensor


def model(path: Path, *tensors: TensorProto, attribute: TensorProto | None = None) -> Path:
    nodes = [helper.make_node("Identity", [tensors[0].name], ["y"])] if tensors else []
    if attribute is not None:
        branch = helper.make_graph([helper.make_node("Constant", [], ["c"], value=attribute)], "branch", [], [])
        nodes.append(helper.make_node("If", ["x"], ["z"], then_branch=branch, else_branch=branch))
    graph = helper.make_graph(nodes, "g", [], [], initializer=list(tensors))
    path.write_bytes(helper.make_model(graph).SerializeToString())
    return path


def test_agrees_with_onnx_on_a_real_graph(demo_bundle: Path) -> None:
    for name in ("image.onnx", "text.onnx"):
        proto = onnx.load(demo_bundle / name, load_external_data=False)
        expected = set()
        for tensor in proto.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data}
            if entries:
                expected.add((tensor.name, entries["location"], int(entries["offset"]), int(entries["length"])))
        found = {
            (item.tensor, item.location, item.offset, item.length) for item in read_external_data(demo_bundle / name)
        }
        assert found == expected
        assert len(found) > 10


def test_tensors_in_subgraphs_are_found(tmp_path: Path) -> None:
    path = model(tmp_path / "m.onnx", attribute=external("hidden", "../secret"))
    assert {item.tensor for item in read_external_data(path)} == {"hidden"}
    with pytest.raises(BundleError, match="outside the bundle"):
        check_external_data(tmp_path, "m.onnx", ())


def test_tensors_in_attributes_of_functions_are_found(tmp_path: Path) -> None:
    """Default values of a function's attributes are fields of the function, and not of its nodes."""
    proto = helper.make_model(helper.make_graph([], "g", [], []))
    function = proto.functions.add(name="f", domain="d")
    function.attribute_proto.append(helper.make_attribute("a", external("hidden", "../secret")))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(BundleError, match="outside the bundle"):
        check_external_data(tmp_path, "m.onnx", ())


@pytest.mark.parametrize(
    "location",
    ["../outside", "/etc/passwd", "a/../../outside", "a\\b", "", "c:x", "a\0b", "x" * 5000, "*/_ORT_MEM_ADDR_/*"],
)
def test_locations_that_leave(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    (folder / "*" / "_ORT_MEM_ADDR_").mkdir(parents=True)
    for path in (tmp_path / "outside", folder / "*" / "_ORT_MEM_ADDR_" / "*"):
        path.write_bytes(b"0" * 100)
    model(folder / "m.onnx", external("w", location))
    with pytest.raises(BundleError, match=r"outside the bundle|not list"):
        check_external_data(folder, "m.onnx", {"../outside", "*/_ORT_MEM_ADDR_/*", location})


def test_data_that_the_manifest_does_not_list(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "m.data").write_bytes(b"0" * 100)
    model(tmp_path / "sub" / "m.onnx", external("w", "m.data", 0, 100))
    with pytest.raises(BundleError, match=r"sub/m\.data.* does not list"):
        check_external_data(tmp_path, "sub/m.onnx", {"m.data", "sub/m.onnx"})
    check_external_data(tmp_path, "sub/m.onnx", {"sub/m.data"})


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (100, 1), (50, 51), (-4, 4), (1 << 40, 4)])
def test_ranges_past_the_end(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(b"0" * 100)
    with pytest.raises(BundleError, match="was cut"):
        check_external_data(
            tmp_path, model(tmp_path / "m.onnx", external("w", "m.data", offset, length)).name, {"m.data"}
        )


def test_weights_that_lie_elsewhere_are_put_into_the_graph(demo_bundle: Path, tmp_path: Path) -> None:
    """What OpenVINO gets of a graph behind links is what the onnx package makes of the graph and its weights."""
    for name in ("text.onnx", "text.onnx.data"):
        (tmp_path / name).symlink_to(demo_bundle / name)
    assert data_elsewhere(demo_bundle / "text.onnx") == {}
    files = data_elsewhere(tmp_path / "text.onnx")
    assert files == {"text.onnx.data": tmp_path / "text.onnx.data"}
    made = inline_weights(tmp_path / "text.onnx", files, "")
    expected = onnx.load(demo_bundle / "text.onnx")
    for tensor in expected.graph.initializer:
        tensor.ClearField("data_location")
    assert onnx.load_from_string(made) == expected
    with pytest.raises(EngineError, match=rf"{len(made)} bytes.* more than {len(made) - 1} .*: use cp -rL"):
        inline_weights(tmp_path / "text.onnx", files, "use cp -rL", len(made) - 1)


def test_weights_in_subgraphs_and_attributes_are_put_into_the_graph(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(np.array([1.5, 2.5, 3.5], np.float32).tobytes())
    tensors = external("w", "m.data", 4, 4), external("v", "m.data", 8)
    path = model(tmp_path / "m.onnx", tensors[0], attribute=tensors[1])
    found = onnx.load_from_string(inline_weights(path, {"m.data": tmp_path / "m.data"}, ""))
    hidden = found.graph.node[1].attribute[0].g.node[0].attribute[0].t
    assert (onnx.numpy_helper.to_array(found.graph.initializer[0]), onnx.numpy_helper.to_array(hidden)) == (2.5, 3.5)


def test_missing_data(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing"):
        check_external_data(tmp_path, model(tmp_path / "m.onnx", external("w", "m.data")).name, {"m.data"})


def test_good_ranges(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(b"0" * 100)
    check_external_data(
        tmp_path, model(tmp_path / "m.onnx", external("w", "m.data", 96, 4), external("v", "m.data")).name, {"m.data"}
    )


def test_empty_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"")
    with pytest.raises(BundleError, match="empty"):
        read_external_data(tmp_path / "m.onnx")


@settings(max_examples=300, deadline=None)
@given(data=st.binary(min_size=1, max_size=400))
def test_random_bytes(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.onnx"
    path.write_bytes(data)
    with contextlib.suppress(BundleError):
        read_external_data(path)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(min_value=0), value=st.integers(0, 255))
def test_flipped_bytes(at: int, value: int, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = bytearray((demo_bundle / "text.onnx").read_bytes())
    data[at % len(data)] = value
    path = tmp_path_factory.getbasetemp() / "flipped.onnx"
    path.write_bytes(data)
    with contextlib.suppress(BundleError):
        read_external_data(path)
