"""Bundles whose files are links, as in the Hugging Face cache: they serve where the checksums are right, and only there."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from edited_bundles import edit_manifest, hub_snapshot, relist

import engines
from engines.__main__ import main
from engines.errors import BundleError, EngineError
from engines.verification.embeddings import verify_bundle

TEXTS = ["a red circle", "two blue squares on a white background"]
IMAGES = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)


def with_openvino(bundle: Path) -> None:
    def change(data: Any) -> None:
        own = [dict(engine, kind="openvino") for engine in data["engines"]]
        data["engines"] += own

    edit_manifest(bundle, change)


@pytest.fixture
def snapshot(demo_bundle: Path, tmp_path: Path) -> Path:
    """The demo bundle in a cache of links."""
    return hub_snapshot(demo_bundle, tmp_path)


def replace_by_link(path: Path, target: Path | str) -> None:
    path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_snapshot_of_the_hub_gives_the_bundles_embeddings(engine: str, demo_bundle: Path, snapshot: Path) -> None:
    if engine == "openvino":
        pytest.importorskip("openvino")
        with_openvino(snapshot)
    with engines.load(demo_bundle) as real, engines.load(snapshot, engine=engine) as linked:
        np.testing.assert_allclose(linked.encode_text(TEXTS), real.encode_text(TEXTS), atol=5e-6)
        np.testing.assert_allclose(linked.encode_image(IMAGES), real.encode_image(IMAGES), atol=5e-6)
    rows = verify_bundle(snapshot, engine=engine)
    assert [row.passed for row in rows] == [True]


def test_a_snapshot_of_the_hub_is_inspected(snapshot: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(snapshot), "--full"]) == 0
    assert "sizes and checksums are right" in capsys.readouterr().out


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("linked", ["image.onnx", "image.onnx.data"])
def test_one_link_among_files(linked: str, engine: str, bundle_copy: Path, tmp_path: Path) -> None:
    """Neither the graph nor its weights need the other's folder."""
    pytest.importorskip(engine)
    with_openvino(bundle_copy)
    with engines.load(bundle_copy, towers=["image"]) as clip:
        expected = clip.encode_image(IMAGES)
    shutil.move(bundle_copy / linked, tmp_path / "elsewhere")
    (bundle_copy / linked).symlink_to(tmp_path / "elsewhere")
    with engines.load(bundle_copy, towers=["image"], engine=engine) as clip:
        np.testing.assert_allclose(clip.encode_image(IMAGES), expected, atol=5e-6)


def test_a_folder_behind_a_link(bundle_copy: Path, tmp_path: Path) -> None:
    """An engine's own graph in a folder that is a link: what holds for a link to a file holds for the files behind it."""
    names = ["image.onnx", "image.onnx.data"]
    (tmp_path / "elsewhere").mkdir()
    for name in names:
        shutil.copyfile(bundle_copy / name, tmp_path / "elsewhere" / name)
    (bundle_copy / "engines").symlink_to(tmp_path / "elsewhere")

    def change(data: Any) -> None:
        data["engines"][0]["file"] = "engines/image.onnx"

    edit_manifest(bundle_copy, change)
    relist(bundle_copy, [f"engines/{name}" for name in names])
    with engines.load(bundle_copy, towers=["image"]) as clip:
        assert clip.encode_image(IMAGES).shape == (3, 64)
    data = tmp_path / "elsewhere" / "image.onnx.data"
    data.write_bytes(data.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleError, match=r"engines/image\.onnx\.data .*sha256"):
        engines.load(bundle_copy, towers=["image"])


def test_links_within_the_bundle_are_taken_as_files(bundle_copy: Path) -> None:
    for name in ("image.onnx.data", "tokenizer.json"):
        (bundle_copy / name).rename(bundle_copy / f"real-{name}")
        (bundle_copy / name).symlink_to(f"real-{name}")
    with engines.load(bundle_copy) as clip:
        assert clip.encode_image(IMAGES).shape == (3, 64)
        assert clip.encode_text(TEXTS).shape == (2, 64)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx.data", "tokenizer.json", "reference.npz", "report.json"])
def test_a_linked_file_is_read_only_if_its_checksum_is_right(name: str, snapshot: Path) -> None:
    """Of the same size: a file that is no link would be loaded, and found by `verify`."""
    blob = (snapshot / name).resolve()
    blob.write_bytes(blob.read_bytes()[:-1] + b"\1")
    with pytest.raises(BundleError, match=rf"{name} in bundle .*sha256 is not the manifest's"):
        engines.load(snapshot)


def test_a_link_that_the_manifest_does_not_list(snapshot: Path) -> None:
    edit_manifest(snapshot, lambda data: data["files"].pop("tokenizer.json"))
    with pytest.raises(BundleError, match=r"tokenizer\.json .*not listed"):
        engines.load(snapshot)


def test_weights_behind_a_link_that_the_manifest_does_not_list(snapshot: Path) -> None:
    proto = onnx.load(snapshot / "image.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "other.data"
    (snapshot / "image.onnx").unlink()
    (snapshot / "image.onnx").write_bytes(proto.SerializeToString())
    (snapshot / "other.data").symlink_to((snapshot / "image.onnx.data").resolve())
    relist(snapshot, ["image.onnx"])
    with pytest.raises(BundleError, match=r"other\.data, which the manifest .* does not list"):
        engines.load(snapshot)


LINKS: dict[str, tuple[Callable[[Path], Path | str], str]] = {
    "device": (lambda _: "/dev/zero", "is not a regular file"),
    "folder": (lambda folder: folder, "is not a regular file"),
    "nothing": (lambda folder: folder / "nothing", "is a link to nothing"),
    "itself": (lambda _: "image.onnx.data", "cannot be reached"),
}


@pytest.mark.parametrize("kind", LINKS)
def test_links_to_what_is_no_file(kind: str, bundle_copy: Path, tmp_path: Path) -> None:
    target, message = LINKS[kind]
    replace_by_link(bundle_copy / "image.onnx.data", target(tmp_path))
    with pytest.raises(BundleError, match=rf"image\.onnx\.data {message}"):
        engines.load(bundle_copy)


@pytest.mark.parametrize("name", ["manifest.json", "image.onnx", "image.onnx.data", "tokenizer.json", "reference.npz"])
def test_nothing_waits_for_a_pipe(name: str, bundle_copy: Path) -> None:
    """Nobody writes into it: who opened it would wait for ever."""
    (bundle_copy / name).unlink()
    os.mkfifo(bundle_copy / name)
    for use in (engines.load, verify_bundle):
        with pytest.raises(BundleError, match="is not a regular file"):
            use(bundle_copy)


def test_openvino_says_what_to_do_where_a_message_would_be_too_large(
    snapshot: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 GiB take too long to write in a test: the limit is lowered."""
    pytest.importorskip("openvino")
    with_openvino(snapshot)
    monkeypatch.setattr("engines.files.onnx_inline.MAX_MESSAGE_BYTES", 1_000_000)
    with pytest.raises(EngineError, match=r"more than 1000000 .*local_dir=.*cp -rL.*engine='onnxruntime'"):
        engines.load(snapshot, engine="openvino")
