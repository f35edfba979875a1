"""engines.onnx_external_data: agrees with the onnx package, refuses what leaves the bundle, and never falls over."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from engines.errors import BundleError
from engines.onnx_external_data import check_external_data, read_external_data


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
        check_external_data(path, tmp_path)


@pytest.mark.parametrize("location", ["../outside", "/etc/passwd", "a/../../outside", "a\\b"])
def test_locations_that_leave(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(b"0" * 100)
    with pytest.raises(BundleError, match="outside the bundle"):
        check_external_data(model(folder / "m.onnx", external("w", location)), folder)


def test_a_link_that_leaves(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    (tmp_path / "outside").write_bytes(b"0" * 100)
    (folder / "m.onnx.data").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="outside the bundle"):
        check_external_data(model(folder / "m.onnx", external("w", "m.onnx.data")), folder)


@pytest.mark.parametrize(("offset", "length"), [(0, 101), (100, 1), (50, 51), (-4, 4), (1 << 40, 4)])
def test_ranges_past_the_end(offset: int, length: int, tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(b"0" * 100)
    with pytest.raises(BundleError, match="was cut"):
        check_external_data(model(tmp_path / "m.onnx", external("w", "m.data", offset, length)), tmp_path)


def test_missing_data(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="missing"):
        check_external_data(model(tmp_path / "m.onnx", external("w", "m.data")), tmp_path)


def test_good_ranges(tmp_path: Path) -> None:
    (tmp_path / "m.data").write_bytes(b"0" * 100)
    check_external_data(model(tmp_path / "m.onnx", external("w", "m.data", 96, 4), external("v", "m.data")), tmp_path)


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
