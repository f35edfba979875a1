"""engines.verification.embeddings: figures are right, nothing that is not finite passes, and a bundle knows when it is damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from edited_bundles import edit_manifest, relist
from onnx import TensorProto, helper, numpy_helper

import engines
from engines.__main__ import main
from engines.errors import BundleError, EngineUnavailableError
from engines.files.checksums import file_sha256
from engines.manifest import File, manifest_bytes, read_manifest
from engines.verification.embeddings import compare_embeddings, top1_agreement, verify_bundle


def unit(rows: int, width: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


class TestCompare:
    def test_equal(self) -> None:
        x = unit(5, 8)
        parity = compare_embeddings(x, x)
        assert parity.samples == 5
        assert parity.min_cosine == pytest.approx(1)
        assert parity.max_abs_error == 0

    def test_known_angle(self) -> None:
        a = np.array([[1, 0], [1, 0]], np.float32)
        b = np.array([[1, 0], [np.cos(0.1), np.sin(0.1)]], np.float32)
        parity = compare_embeddings(a, b)
        assert parity.min_cosine == pytest.approx(np.cos(0.1), abs=1e-6)
        assert parity.mean_cosine == pytest.approx((1 + np.cos(0.1)) / 2, abs=1e-6)
        assert parity.max_abs_error == pytest.approx(np.sin(0.1), abs=1e-6)

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_not_finite_never_passes(self, value: float) -> None:
        x = unit(3, 4)
        y = x.copy()
        y[1, 2] = value
        parity = compare_embeddings(x, y)
        assert parity.min_cosine == -1
        assert parity.max_abs_error == np.inf

    def test_zeros(self) -> None:
        assert compare_embeddings(unit(2, 4), np.zeros((2, 4), np.float32)).min_cosine == -1

    def test_shapes(self) -> None:
        with pytest.raises(ValueError, match="cannot be compared"):
            compare_embeddings(unit(2, 4), unit(3, 4))


class TestTop1:
    def test_agreement(self) -> None:
        images, texts = unit(20, 8), unit(5, 8, 1)
        assert top1_agreement(images, texts, images, texts, 1e-6) == 1
        assert top1_agreement(images, texts, -images, texts, 1e-6) < 0.5

    def test_ties_within_the_margin(self) -> None:
        image = np.array([[1.0, 0.0]])
        texts = np.array([[0.9, 0.1], [0.9001, 0.1]])
        swapped = texts[::-1]
        assert top1_agreement(image, texts, image, swapped, 1e-6) == 0
        assert top1_agreement(image, texts, image, swapped, 1e-3) == 1

    def test_nan(self) -> None:
        images, texts = unit(4, 8), unit(5, 8, 1)
        broken = images.copy()
        broken[0] = np.nan
        assert top1_agreement(images, texts, broken, texts, 1e-6) == 0.75


class TestBundle:
    def test_good(self, demo_bundle: Path) -> None:
        for engine in ("auto", "all", "onnxruntime"):
            (row,) = verify_bundle(demo_bundle, engine)
            assert row.passed
            assert row.engine == "onnxruntime"
            assert "CPUExecutionProvider" in row.verified_with

    def test_half(self, rtx_bundle: Path) -> None:
        (row,) = verify_bundle(rtx_bundle, "onnxruntime")
        assert row.passed
        assert read_manifest(rtx_bundle).precision == "fp16"
        assert set(row.towers) == {"image", "text"}

    def test_one_tower(self, normalized_image_bundle: Path) -> None:
        (row,) = verify_bundle(normalized_image_bundle)
        assert row.passed
        assert row.top1_agreement is None

    def test_a_tower_without_an_engine(self, bundle_copy: Path) -> None:
        """Its engine could not be built: the other tower serves and is checked, and the sentence says what is missing."""
        manifest = read_manifest(bundle_copy)
        images_only = tuple(engine for engine in manifest.engines if engine.tower == "image")
        (bundle_copy / "manifest.json").write_bytes(
            manifest_bytes(msgspec.structs.replace(manifest, engines=images_only))
        )
        (row,) = verify_bundle(bundle_copy, engine="all")
        assert (set(row.towers), row.passed, row.top1_agreement) == ({"image"}, True, None)
        with engines.load(bundle_copy, towers=("image",)) as clip:
            assert set(clip.engines) == {"image"}
        for call in (verify_bundle, engines.load):
            with pytest.raises(EngineUnavailableError, match="has no engine for its text tower"):
                call(bundle_copy)

    def test_a_tower_without_an_engine_is_named(self, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Nothing says that all is right where half of the bundle has no engine; what was built is, and that is exit code 0."""
        manifest = read_manifest(bundle_copy)
        images_only = tuple(engine for engine in manifest.engines if engine.tower == "image")
        (bundle_copy / "manifest.json").write_bytes(
            manifest_bytes(msgspec.structs.replace(manifest, engines=images_only))
        )
        for engine in ("all", "onnxruntime"):
            assert main(["verify", str(bundle_copy), "--engine", engine]) == 0
            text = capsys.readouterr().out
            assert "not checked: the text tower, for which the bundle has no onnxruntime engine" in text
            assert "files and embeddings are right" not in text
            assert main(["verify", str(bundle_copy), "--engine", engine, "--json"]) == 0
            assert json.loads(capsys.readouterr().out)["towers_without_engine"] == {"onnxruntime": ["text"]}
        assert main(["verify", str(bundle_copy)]) == 1
        assert "has no engine for its text tower" in capsys.readouterr().err
        with pytest.raises(SystemExit):
            main(["verify", "--help"])
        assert "A tower for which an engine was not built is named" in " ".join(capsys.readouterr().out.split())

    def test_wrong_embeddings_exit_3(self, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with np.load(bundle_copy / "reference.npz") as arrays:
            changed = dict(arrays)
        changed["image_embeds"] = np.roll(changed["image_embeds"], 1, axis=0)
        np.savez_compressed(bundle_copy / "reference.npz", **changed)
        accept(bundle_copy, "reference.npz")
        assert main(["verify", str(bundle_copy)]) == 3
        assert "FAILED" in capsys.readouterr().out

    def test_json(self, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", str(demo_bundle), "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert data["passed"] is True
        assert data["towers_without_engine"] == {}
        assert main(["verify", str(demo_bundle)]) == 0
        assert "verified: files and embeddings are right" in capsys.readouterr().out

    def test_flipped_byte_in_the_weights(self, bundle_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
        path = bundle_copy / "image.onnx.data"
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert main(["verify", str(bundle_copy)]) == 1
        assert "sha256" in capsys.readouterr().err

    @pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"not a zip"])
    def test_damaged_reference(self, data: bytes, bundle_copy: Path) -> None:
        (bundle_copy / "reference.npz").write_bytes(data)
        accept(bundle_copy, "reference.npz")
        with pytest.raises(BundleError, match="damaged"):
            verify_bundle(bundle_copy)


def accept(bundle: Path, name: str) -> None:
    """Write a changed file's size and checksum into the manifest."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    file = File(bytes=(bundle / name).stat().st_size, sha256=file_sha256(bundle / name))
    data["files"][name] = {"bytes": file.bytes, "sha256": file.sha256}
    path.write_text(json.dumps(data))


@pytest.mark.parametrize("wrong", ["rows", "width", "dtype"])
def test_a_reference_that_disagrees_with_itself(wrong: str, bundle_copy: Path) -> None:
    with np.load(bundle_copy / "reference.npz") as arrays:
        changed = dict(arrays)
    embeds = changed["text_embeds"]
    changed["text_embeds"] = {"rows": embeds[1:], "width": embeds[:, 1:], "dtype": embeds.astype(np.complex64)}[wrong]
    np.savez_compressed(bundle_copy / "reference.npz", **changed)
    accept(bundle_copy, "reference.npz")
    with pytest.raises(BundleError, match=r"reference\.npz is missing or damaged \(text_embeds is .*, not float32 \("):
        verify_bundle(bundle_copy)


def mean_of_ids(bundle: Path, keep: str) -> None:
    """Make the text tower one that sees padding: the mean of the rows that the ids choose in a table."""
    table = np.random.default_rng(0).normal(size=(49408, 64)).astype(np.float32)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["rows"]),
        helper.make_node("ReduceMean", ["rows", "axis"], ["mean"], keepdims=0),
        helper.make_node("LpNormalization", ["mean"], ["embeds"], axis=1, p=2),
    ]
    data = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    tower = data["towers"]["text"]
    graph = helper.make_graph(
        nodes,
        "text",
        [helper.make_tensor_value_info(tower["input"]["name"], TensorProto.INT32, ["N", "L"])],
        [helper.make_tensor_value_info(tower["output"]["name"], TensorProto.FLOAT, ["N", 64])],
        [numpy_helper.from_array(table, "table"), numpy_helper.from_array(np.array([1], np.int64), "axis")],
    )
    for node in graph.node:
        node.input[:] = [tower["input"]["name"] if name == "ids" else name for name in node.input]
        node.output[:] = [tower["output"]["name"] if name == "embeds" else name for name in node.output]
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (bundle / "text.onnx").write_bytes(model.SerializeToString())
    with np.load(bundle / "reference.npz") as arrays:
        reference = dict(arrays)
    means = table[reference["text_ids"]].mean(axis=1)
    reference["text_embeds"] = means / np.linalg.norm(means, axis=1, keepdims=True)
    np.savez(bundle / "reference.npz", **reference)
    relist(bundle, ["text.onnx", "reference.npz"])

    def change(data: Any) -> None:
        data["towers"]["text"]["length"]["keep"] = keep
        data["parity"][-1]["limits"]["top1_agreement"] = 0.0  # images are others' than these texts

    edit_manifest(bundle, change)


@pytest.mark.parametrize(("keep", "right"), [("fixed", True), ("end", False), ("padding", False)])
def test_captions_are_cut_as_an_embedder_cuts_them(keep: str, right: bool, bundle_copy: Path) -> None:
    """A rule by which the manifest cuts what the tower does see gives other embeddings, and verify says so."""
    mean_of_ids(bundle_copy, keep)
    assert verify_bundle(bundle_copy)[0].passed == right
