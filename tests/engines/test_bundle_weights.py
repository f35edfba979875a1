"""Graphs whose weights lie where they must not are refused by `load`, `verify` and `inspect`, before a library opens them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edited_bundles import edit_manifest, relist

import engines
from engines.__main__ import main
from engines.errors import BundleError, EngineUnavailableError
from engines.verification.embeddings import verify_bundle

USES: dict[str, Callable[[Path], object]] = {
    "load": lambda bundle: engines.load(bundle).close(),
    "load one tower": lambda bundle: engines.load(bundle, towers=["text"]).close(),
    "verify": verify_bundle,
}


def move_weights(bundle: Path, graph: str, location: str) -> None:
    """Let a graph name its weights' file by another location; the manifest fits the new graph."""
    path = bundle / graph
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(proto.SerializeToString())
    relist(bundle, [graph])


def refused(bundle: Path, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Every use of the bundle is refused with the message, which is the whole of what the command prints."""
    for use in USES.values():
        with pytest.raises(BundleError, match=message):
            use(bundle)
    capsys.readouterr()
    for command in ("inspect", "verify"):
        assert main([command, str(bundle)]) == 1
        out, err = capsys.readouterr()
        assert not out
        assert len(err.splitlines()) == 1
    with pytest.raises(BundleError, match=message):
        raise BundleError(err)


@pytest.mark.parametrize("graph", ["image.onnx", "text.onnx"])
def test_weights_outside_the_bundle(graph: str, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copyfile(bundle_copy / f"{graph}.data", bundle_copy.parent / "outside.data")
    move_weights(bundle_copy, graph, "../outside.data")
    refused(bundle_copy, rf"{graph} keeps weights at '\.\./outside\.data', outside the bundle", capsys)


def test_weights_that_the_manifest_does_not_list(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (bundle_copy / "image.onnx.data").rename(bundle_copy / "other.data")
    move_weights(bundle_copy, "image.onnx", "other.data")
    edit_manifest(bundle_copy, lambda data: data["files"].pop("image.onnx.data"))
    refused(bundle_copy, r"image\.onnx keeps weights in other\.data, which the manifest .* does not list", capsys)


def test_weights_past_the_end_of_their_file(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bundle_copy / "text.onnx.data"
    data.write_bytes(data.read_bytes()[:-64])
    relist(bundle_copy, ["text.onnx.data"])
    refused(bundle_copy, r"text\.onnx\.data has \d+ bytes, but text\.onnx keeps tensor .*was cut", capsys)


def test_weights_by_an_address_in_memory(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """ONNX Runtime and OpenVINO take the offset of this location for an address of their own process."""
    location = "*/_ORT_MEM_ADDR_/*"
    (bundle_copy / location).parent.mkdir(parents=True)
    shutil.copyfile(bundle_copy / "image.onnx.data", bundle_copy / location)
    move_weights(bundle_copy, "image.onnx", location)
    relist(bundle_copy, [location])
    refused(bundle_copy, "outside the bundle", capsys)


def own_graph(bundle: Path) -> str:
    """A graph that only an engine uses, as int8 bundles for two devices have one."""
    folder = bundle / "engines" / "onnxruntime"
    folder.mkdir(parents=True)
    for name in ("image.onnx", "image.onnx.data"):
        shutil.copyfile(bundle / name, folder / name)
    names = [f"engines/onnxruntime/{name}" for name in ("image.onnx", "image.onnx.data")]

    def change(data: Any) -> None:
        data["engines"][0]["file"] = names[0]

    edit_manifest(bundle, change)
    relist(bundle, names)
    return names[0]


def test_weights_of_an_engines_own_graph(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    graph = own_graph(bundle_copy)
    engines.load(bundle_copy).close()
    shutil.copyfile(bundle_copy / "image.onnx.data", bundle_copy.parent / "outside.data")
    move_weights(bundle_copy, graph, "../../../outside.data")
    refused(bundle_copy, "outside the bundle", capsys)


def test_a_bundle_without_an_engines_own_graph_serves_with_its_other_engines(bundle_copy: Path) -> None:
    graph = own_graph(bundle_copy)

    def change(data: Any) -> None:
        data["engines"].append({**data["engines"][0], "file": "image.onnx"})

    edit_manifest(bundle_copy, change)
    shutil.rmtree((bundle_copy / graph).parent)
    with engines.load(bundle_copy) as clip:
        assert clip.encode_text(["a red circle"]).shape == (1, 64)
    with pytest.raises(BundleError, match="is missing"):
        verify_bundle(bundle_copy)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_an_engines_own_graph_without_its_weights(damage: str, bundle_copy: Path) -> None:
    """Such an engine is none; the others serve."""
    weights = bundle_copy / f"{own_graph(bundle_copy)}.data"
    weights.write_bytes(weights.read_bytes()[:1000])
    if damage == "missing":
        weights.unlink()
    said = r"engines/onnxruntime/image\.onnx\.data (is missing|has 1000 bytes instead of \d+)"
    with pytest.raises(EngineUnavailableError, match=said):
        engines.load(bundle_copy)
    with pytest.raises(BundleError, match=said):
        verify_bundle(bundle_copy)

    def change(data: Any) -> None:
        data["engines"].append({**data["engines"][0], "file": "image.onnx"})

    edit_manifest(bundle_copy, change)
    with engines.load(bundle_copy) as clip:
        assert clip.encode_image(np.zeros((1, 64, 64, 3), np.uint8)).shape == (1, 64)


def test_a_manifest_without_files(bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    edit_manifest(bundle_copy, lambda data: data.update(files={}))
    refused(bundle_copy, "lists no files", capsys)
    edit_manifest(bundle_copy, lambda data: data.pop("files"))
    refused(bundle_copy, "lists no files", capsys)


@pytest.mark.parametrize("name", ["image.onnx", "tokenizer.json", "reference.npz"])
def test_a_file_that_the_manifest_uses_and_does_not_list(
    name: str, bundle_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit_manifest(bundle_copy, lambda data: data["files"].pop(name))
    refused(bundle_copy, rf"{name} is used by the manifest .* but not listed", capsys)


def test_inspect_prints_an_unharmed_bundle(demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(demo_bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["files"]
