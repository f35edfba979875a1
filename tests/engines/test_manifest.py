"""engines.manifest: what a damaged, edited, newer or hostile manifest is answered with."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import manifest as schema
from engines.bundle_files import verify_files
from engines.errors import BundleError, SchemaVersionError
from engines.files.bundle_paths import resolve_path
from engines.manifest import manifest_bytes, read_manifest


def edit(bundle: Path, **changes: Any) -> None:
    path = bundle / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_round_trip(bundle_copy: Path) -> None:
    manifest = read_manifest(bundle_copy)
    assert manifest_bytes(manifest) == (bundle_copy / "manifest.json").read_bytes()
    (bundle_copy / "manifest.json").write_bytes(manifest_bytes(manifest))
    assert read_manifest(bundle_copy) == manifest


def test_verify_accepts_what_was_written(demo_bundle: Path) -> None:
    verify_files(demo_bundle, read_manifest(demo_bundle), full=True)


def test_not_a_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="not there"):
        read_manifest(tmp_path / "nowhere")
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        read_manifest(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="a file, not"):
        read_manifest(tmp_path / "file")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"\xff\xfe", b'{"schema_version": "1"}', b'{"schema_version": 1}', b"[" * 5000]
)
def test_damaged_manifest(data: bytes, bundle_copy: Path) -> None:
    (bundle_copy / "manifest.json").write_bytes(data)
    with pytest.raises(BundleError, match="damaged or was edited"):
        read_manifest(bundle_copy)


def test_newer_schema(bundle_copy: Path) -> None:
    edit(bundle_copy, schema_version=99)
    with pytest.raises(SchemaVersionError, match=r"99.*upgrade openclip-engines"):
        read_manifest(bundle_copy)


def test_unknown_fields_of_a_later_minor_release_are_passed_over(bundle_copy: Path) -> None:
    edit(bundle_copy, something_new={"a": 1})
    assert read_manifest(bundle_copy).schema_version == 1


@given(st.binary(max_size=200))
def test_random_bytes_raise_bundle_errors_only(data: bytes) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "manifest.json").write_bytes(data)
        with pytest.raises(BundleError):
            read_manifest(folder)


@pytest.mark.parametrize("relative", ["../x", "/etc/passwd", "a/../../x", "a\\b", "c:x", "", ".", "a/..", "x\0y"])
def test_paths_that_leave(relative: str, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="bundle"):
        resolve_path(tmp_path, relative)


@given(st.text(max_size=30))
def test_resolved_paths_stay_inside(relative: str) -> None:
    folder = Path.cwd() / "somewhere" / "bundle"
    try:
        path = resolve_path(folder, relative)
    except BundleError:
        return
    assert path.resolve().is_relative_to(folder.resolve())
    assert path != folder


@pytest.mark.parametrize("field", ["reference", "tokenizer", "towers", "engines"])
def test_a_path_in_any_field_is_checked(field: str, bundle_copy: Path) -> None:
    data = json.loads((bundle_copy / "manifest.json").read_text())
    if field == "reference":
        data["reference"] = "../reference.npz"
    elif field == "tokenizer":
        data["tokenizer"]["file"] = "../tokenizer.json"
    elif field == "towers":
        data["towers"]["text"]["graph"] = "/text.onnx"
    else:
        data["engines"][0]["file"] = "../../image.onnx"
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="inside the bundle"):
        read_manifest(bundle_copy)


@pytest.mark.parametrize("name", ["image.onnx", "text.onnx.data", "tokenizer.json", "reference.npz"])
def test_missing_cut_and_changed_files(name: str, bundle_copy: Path) -> None:
    manifest = read_manifest(bundle_copy)
    path = bundle_copy / name
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(BundleError, match=rf"{name}.* bytes"):
        verify_files(bundle_copy, manifest)
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(BundleError, match=rf"{name}.*sha256"):
        verify_files(bundle_copy, manifest, full=True)
    path.unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        verify_files(bundle_copy, manifest)


def test_unlisted_file_is_refused(bundle_copy: Path) -> None:
    data = json.loads((bundle_copy / "manifest.json").read_text())
    del data["files"]["image.onnx"]
    (bundle_copy / "manifest.json").write_text(json.dumps(data))
    with pytest.raises(BundleError, match="not listed"):
        verify_files(bundle_copy, read_manifest(bundle_copy))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_manifest(bundle_copy: Path) -> None:
    (bundle_copy / "manifest.json").chmod(0)
    with pytest.raises(BundleError, match="cannot read"):
        read_manifest(bundle_copy)


def test_every_field_is_described() -> None:
    """FORMAT.md names every field of every struct."""
    text = Path(schema.__file__).with_name("FORMAT.md").read_text(encoding="utf-8")
    structs = [item for item in vars(schema).values() if isinstance(item, type) and issubclass(item, msgspec.Struct)]
    for struct in structs:
        for field in msgspec.structs.fields(struct):
            assert f"`{field.name}`" in text, f"{struct.__name__}.{field.name}"
