"""The C++ library's check of a bundle's files, links and graphs, each answered as the Python reader answers it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bundle_answers import cpp_answer, engine_change, python_answer, same_answer, with_value, write
from cpp_library import CppLibrary
from edited_bundles import edit_manifest, hub_snapshot, relist

PATHS = (
    *("../x", "/x", "a/../../x", "a\\b", "c:x", "", ".", "./", "a/..", "x\0", "x\x1f", "é" * 128, "é'\"\\"),
    "/".join(["a" * 200] * 6),
)


def test_paths_that_leave_the_folder(cpp: CppLibrary, original: Any, bundle: Path) -> None:
    fields = [("reference",), ("tokenizer", "file"), ("engines", 0, "file"), ("engines", 0, "inspector")]
    for path in PATHS:
        for field in (*fields, ("towers", "image", "graph")):
            write(bundle, with_value(original, field, path))
            assert "does not name a file inside" in (same_answer(cpp, bundle) or "")
        write(bundle, with_value(original, ("files", path), {"bytes": 1, "sha256": "0" * 64}))
        assert "does not name a file inside" in (same_answer(cpp, bundle) or "")
    write(bundle, with_value(original, ("reference",), "./reference.npz"))
    assert "not listed" in (same_answer(cpp, bundle) or "")


def _outside(path: Path, content: bytes) -> None:
    target = path.parent.with_name(f"outside-{path.name}")
    target.write_bytes(content)
    _link(path, target)


def _link(path: Path, target: str | Path) -> None:
    path.unlink()
    path.symlink_to(target)


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, tuple[Callable[[Path, bytes], object], str]] = {
    "cut": (lambda path, data: path.write_bytes(data[:-1]), "instead of"),
    "missing": (lambda path, data: path.unlink(), "is missing"),
    "a folder": (lambda path, data: _folder(path), "is not a regular file"),
    "a pipe": (lambda path, data: _pipe(path), "is not a regular file"),
    "a dead link": (lambda path, data: _link(path, "nowhere"), "is a link to nothing"),
    "a circle of links": (lambda path, data: _link(path, path.name), "cannot be reached"),
    "a link out": (lambda path, data: _outside(path, data), ""),
    "a link to another file": (lambda path, data: _outside(path, data[:-1] + bytes([data[-1] ^ 1])), "was changed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["image.onnx", "text.onnx.data", "tokenizer.json"])
def test_files(name: str, damage: str, cpp: CppLibrary, bundle_copy: Path) -> None:
    change, words = DAMAGES[damage]
    change(bundle_copy / name, (bundle_copy / name).read_bytes())
    answer = same_answer(cpp, bundle_copy)
    assert answer is None if not words else words in (answer or "")


def test_the_list_of_files(cpp: CppLibrary, bundle_copy: Path, tmp_path: Path) -> None:
    snapshot = hub_snapshot(bundle_copy, tmp_path / "cache")
    assert same_answer(cpp, snapshot) is None
    for name in ("image.onnx", "image.onnx.data", "reference.npz"):
        edit_manifest(bundle_copy, lambda data, name=name: data["files"].pop(name))
        assert "list" in (same_answer(cpp, bundle_copy) or "")
        relist(bundle_copy, [name])
    assert same_answer(cpp, bundle_copy) is None
    edit_manifest(bundle_copy, lambda data: data.update(files={}))
    assert "lists no files" in (same_answer(cpp, bundle_copy) or "")


def test_an_engine_of_its_own_graph(cpp: CppLibrary, bundle_copy: Path) -> None:
    """A bundle without the files of an engine is a good bundle, and one whose file was exchanged is not."""
    folder = bundle_copy / "engines" / "onnxruntime"
    folder.mkdir(parents=True)
    names = [f"engines/onnxruntime/{name}" for name in ("image.onnx", "image.onnx.data")]
    for name in names:
        shutil.copy(bundle_copy / Path(name).name, bundle_copy / name)
    edit_manifest(bundle_copy, engine_change("image", file=names[0]))
    relist(bundle_copy, names)
    assert same_answer(cpp, bundle_copy) is None
    for name in reversed(names):
        (bundle_copy / name).write_bytes(b"x")
        assert same_answer(cpp, bundle_copy) is None
        (bundle_copy / name).unlink()
        assert same_answer(cpp, bundle_copy) is None
    (bundle_copy / "image.onnx").unlink()
    assert "image.onnx is missing" in (same_answer(cpp, bundle_copy) or "")


def _varint(value: int) -> bytes:
    encoded = b""
    while value > 0x7F:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _tensor(**entries: str) -> bytes:
    pairs = (_field(13, _field(1, key.encode()) + _field(2, value.encode())) for key, value in entries.items())
    return _field(5, _field(8, b"weight") + b"".join(pairs))


def _nested(depth: int) -> bytes:
    """A tensor in `depth` graphs inside each other."""
    graph = _tensor(location="nowhere")
    for _ in range(depth):
        graph = _field(1, _field(5, _field(6, graph)))
    return graph


DATA = "image.onnx.data"
LOCATIONS = (
    *("text.onnx.data", "nowhere", "manifest.json", "../x", "/etc/passwd", "", ".", "a*b", "a\\b", "x" * 300),
    "é'\n",
)


@pytest.mark.parametrize(
    "graph",
    [
        _tensor(),
        _tensor(location=DATA),
        _tensor(location=f"./{DATA}", offset="1", length="5"),
        *(_tensor(location=name) for name in LOCATIONS),
        *(_tensor(location=DATA, offset=offset, length="5") for offset in ("-1", "99999999999", str(2**63 - 1))),
        *(_tensor(location=DATA, length=length) for length in ("-5", "99999999999")),
        _nested(5),
        _field(15, _field(1, _tensor(location="nowhere")[2:])),
    ],
    ids=range(21),
)
def test_weights_of_graphs(graph: bytes, cpp: CppLibrary, bundle_copy: Path) -> None:
    (bundle_copy / "image.onnx").write_bytes(_field(7, graph))
    relist(bundle_copy, ["image.onnx"])
    same_answer(cpp, bundle_copy)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"x",
        b"\x00",
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x08" + b"\xff" * 11,
        b"\x3b",
        _field(7, _nested(3000)),
        _field(7, _tensor(location=DATA, offset="x")),
        _field(7, _tensor(location=DATA, length="9" * 30)),
    ],
    ids=range(9),
)
def test_damaged_graphs(content: bytes, cpp: CppLibrary, bundle_copy: Path) -> None:
    (bundle_copy / "image.onnx").write_bytes(content)
    relist(bundle_copy, ["image.onnx"])
    assert python_answer(bundle_copy) is not None
    assert (cpp_answer(cpp, bundle_copy) or "").startswith("BundleError")
