"""The C++ library's reading of bundles: every rule of FORMAT.md, each answered as the Python reader answers it."""

from __future__ import annotations

import copy
import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from cpp_library import CppLibrary
from edited_bundles import edit_manifest, hub_snapshot, relist

from engines import manifest as schema
from engines.bundle_files import verify_files
from engines.errors import BundleError, EngineError
from engines.manifest import MAX_MANIFEST_BYTES, read_manifest
from engines.schema.ranges import NUMBERS

DELETED = object()
# Each is wrong in most fields, and right in some.
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1.5,
    10**20,
    2**53 + 1,
    "",
    "é'\"\n\u2028" * 60,
    "x" * 4097,
    [],
    [1],
    {},
    {"x": 1},
)
FIGURES = {"top1": {"value": 0.5, "low": 0.25, "high": 0.75}}


def python_answer(bundle: Path) -> str | None:
    """The sentence with which Python refuses a bundle's manifest or files; None where it accepts them."""
    try:
        verify_files(bundle, read_manifest(bundle))
    except BundleError as error:
        return f"{type(error).__name__}: {error}"
    return None


def cpp_answer(cpp: CppLibrary, bundle: Path) -> str | None:
    try:
        with cpp.open(bundle, engine="none"):
            return None
    except EngineError as error:
        return f"{type(error).__name__}: {error}"


def same_answer(cpp: CppLibrary, bundle: Path) -> str | None:
    """Python's answer, which must be the C++ library's."""
    expected, actual = python_answer(bundle), cpp_answer(cpp, bundle)
    if expected is None:
        # The tokenizer and the transform refuse some values of fields after the manifest was read.
        assert actual is None or not ("manifest.json" in actual or "the manifest of" in actual), actual
    else:
        assert actual == expected
    return expected


@pytest.fixture(scope="module")
def original(demo_bundle: Path) -> Any:
    """A manifest in which every field of every struct has a value."""
    data = json.loads((demo_bundle / "manifest.json").read_text(encoding="utf-8"))
    data["model"] |= {"tag": "t", "logit_bias": -1.5, "license": "MIT", "license_source": "https://example.org"}
    data["accuracy"] = [
        {"engine": "e", "verified_with": "x", "dataset": "d", "samples": 2, "classes": 1, "limit": 0.1, "passed": True}
        | dict.fromkeys(("eager", "figures", "change"), FIGURES)
    ]
    build: dict[str, Any] = {"seconds": 1.5, "peak_memory_bytes": 5, "fused_attention": 1, "decomposed_attention": 0}
    build |= {"layers": {"MatMul": {"float32": 3}}, "options": {"level": 3, "fast": True, "mode": "x"}}
    for engine in data["engines"]:
        length = {"length": {"min": 77, "opt": 77, "max": 77}} if engine["tower"] == "text" else {}
        engine["profiles"] = [{"batch": {"min": 1, "opt": 8, "max": 64}} | length]
        engine["batch"] = {"min": 1, "opt": 8, "max": 64}
        engine["target"] |= {
            "device": "cpu",
            "isa": "avx2",
            "device_compatible": "ampere+",
            "version_compatible": False,
        }
        engine |= {"build": build, "inspector": "report.json", "stripped": False, "input_layout": "padded"}
    units = {"fp32_units": {"a": "b"}}
    quantization = {"dtype": "int8", "layers": 1, "share": 0.5, "kept": {"a": "b"}, "calibration": "x", "samples": 3}
    for tower in data["towers"].values():
        tower |= units | {"quantization": quantization}
    data["tokenizer"] |= {"last_id": 0, "strip_sep_token": False}
    check = {"failing": 1, "samples": 1, "eager": 1.0, "engine": 1.5, "ratio": 1.5, "limit": 4}
    data["parity"][0] |= {"float64": {"image": check}, "accuracy_loss_allowed": False, "top1_agreement": 1.0}
    data["parity"][0]["limits"]["tie_margin"] = 1e-5
    data["kernels"] = {"mode": "auto", "swapped": {"attention": 1}}
    return data


@pytest.fixture(scope="module")
def bundle(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the demo bundle's files, in which tests write the manifest."""
    return Path(shutil.copytree(demo_bundle, tmp_path_factory.mktemp("cpp") / "bundle"))


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value but its root, as keys from the root on."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def with_value(data: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(data)
    *before, last = path
    parent = changed
    for key in before:
        parent = parent[key]
    if value is DELETED:
        del parent[last]
    else:
        parent[last] = value
    return changed


def write(bundle: Path, data: Any) -> None:
    (bundle / "manifest.json").write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")


def fields_of(value: Any) -> Iterator[tuple[str, Any]]:
    """Every field with a value in a manifest: ("Model.name", value)."""
    if isinstance(value, msgspec.Struct):
        for name in value.__struct_fields__:
            if (item := getattr(value, name)) not in (None, {}, ()):
                yield f"{type(value).__name__}.{name}", item
            yield from fields_of(item)
    elif isinstance(value, (dict, tuple)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from fields_of(item)


@pytest.mark.long
def test_every_field_of_the_schema(cpp: CppLibrary, original: Any, bundle: Path) -> None:
    """The tables of the C++ reader are those of ``engines.schema``: each field with wrong types, out of range and missing."""
    write(bundle, original)
    assert same_answer(cpp, bundle) is None
    structs = [item for item in vars(schema).values() if isinstance(item, type) and issubclass(item, msgspec.Struct)]
    known = {f"{item.__name__}.{field.name}" for item in structs for field in msgspec.structs.fields(item)}
    assert {name for name, _ in fields_of(read_manifest(bundle))} == {name for name in known if "_Version" not in name}
    refused = 0
    for index, path in enumerate(places(original)):
        if path[0] in ("files", "created_with") and len(path) > 1 and path[1] not in ("image.onnx", "torch"):
            continue  # entries that are alike
        for value in (DELETED, *VALUES[index % 2 :: 2]):
            write(bundle, with_value(original, path, value))
            refused += same_answer(cpp, bundle) is not None
    assert refused > 1000


def test_the_ends_of_every_range(cpp: CppLibrary, original: Any, bundle: Path) -> None:
    """Both ends of a number's range are allowed, and nothing beyond them."""
    write(bundle, original)
    seen = set()

    def walk(value: Any, path: tuple[Any, ...], field: str) -> None:
        if isinstance(value, msgspec.Struct):
            for name in value.__struct_fields__:
                walk(getattr(value, name), (*path, name), f"{type(value).__name__}.{name}")
        elif isinstance(value, (dict, tuple)):
            for key, item in value.items() if isinstance(value, dict) else enumerate(value):
                walk(item, (*path, key), field)
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and field not in seen:
            seen.add(field)
            low, high = NUMBERS[field]
            if isinstance(value, int):
                ends: tuple[Any, ...] = (int(low) - 1, int(low), int(high), int(high) + 1)
            else:
                ends = (
                    np.nextafter(low, -np.inf).item(),
                    float(low),
                    float(high),
                    np.nextafter(high, np.inf).item(),
                    1e300,
                )
            for end in ends:
                write(bundle, with_value(original, path, end))
                same_answer(cpp, bundle)

    walk(read_manifest(bundle), (), "")
    assert seen == set(NUMBERS)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('{"schema_version"', '\ufeff{"schema_version"'),
        ('"precision"', '"precision": "fp32", "precision"'),  # the last of two counts
        ('"precision"', '"precision": 1, "precision"'),  # but both are looked at
        ('"precision"', '"later": {"a": [1, {"b": null}]}, "precision"'),  # a field of a later release
        ('"schema_version": 1', '"schema_version": 2'),
        ('"schema_version": 1', '"schema_version": 2, "model": 3'),
        ('"schema_version": 1', '"schema_version": 0'),
        ('"schema_version": 1', '"schema_version": 1.0'),
        ('"precision"', '"later": ' + "[" * 900 + "]" * 900 + ', "precision"'),
        ('"towers": {', '"towers": {"sound": 1, '),
        ('"created_with": {', '"created_with": {"\\u0000": "\\ud83d\\ude00", '),
        ('"created_with": {', '"created_with": {"' + "é" * 4096 + '": "", '),
        ('"created_with": {', '"created_with": {"' + "é" * 4097 + '": "", '),
        ('"created_with": {', '"created_with": {' + "".join(f'"{i % 9000}": "", ' for i in range(18_000))),
        ('"created_with": {', '"created_with": {' + "".join(f'"{i}": "", ' for i in range(10_001))),
        ('"engines": [', '"engines": [' + "{}, " * 3),
    ],
)
def test_json(before: str, after: str, cpp: CppLibrary, original: Any, bundle: Path) -> None:
    text = json.dumps(original)
    assert before in text
    write(bundle, text.replace(before, after, 1))
    if after.startswith("\ufeff"):
        assert (cpp_answer(cpp, bundle) or "").startswith(
            f"BundleError: {bundle / 'manifest.json'} is damaged or was edited"
        )
    same_answer(cpp, bundle)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"3",
        b"\xff\xfe",
        b'{"schema_version": 1}',
        b"[" * 5_000_000,
        b'{"schema_version": 1} x',
        b"{}\0",
        b'{"a": \xff}',
        b'{"a": NaN}',
        b'{"schema_version": "\\ud800"}',
        b'{"schema_version": 1,}',
    ],
    ids=range(13),
)
def test_damaged_json(data: bytes, cpp: CppLibrary, bundle: Path) -> None:
    """The words after the colon are the JSON library's own."""
    (bundle / "manifest.json").write_bytes(data)
    for answer in (python_answer(bundle), cpp_answer(cpp, bundle)):
        assert answer is not None
        assert answer.startswith(f"BundleError: {bundle / 'manifest.json'} is damaged or was edited: ")


def test_where_the_manifest_is_no_file(cpp: CppLibrary, demo_bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    assert "it has no manifest.json" in (same_answer(cpp, tmp_path) or "")
    assert "is not there" in (same_answer(cpp, tmp_path / "nowhere") or "")
    assert "a file, not" in (same_answer(cpp, demo_bundle / "manifest.json") or "")
    assert "cannot be reached" in (same_answer(cpp, tmp_path / ("x" * 300)) or "")
    path.mkdir()
    assert "not a regular file" in (same_answer(cpp, tmp_path) or "")
    path.rmdir()
    os.mkfifo(path)
    assert "not a regular file" in (same_answer(cpp, tmp_path) or "")
    path.unlink()
    path.write_bytes(b" " * (MAX_MANIFEST_BYTES + 1))
    assert "more than the" in (same_answer(cpp, tmp_path) or "")


def _drop(tower: str, also_engines: bool) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        del data["towers"][tower]
        if also_engines:
            data["engines"] = [engine for engine in data["engines"] if engine["tower"] != tower]

    return change


def _engine(tower: str, **fields: Any) -> Callable[[Any], None]:
    def change(data: Any) -> None:
        next(engine for engine in data["engines"] if engine["tower"] == tower).update(fields)

    return change


def _batch(
    low: int, opt: int | None, high: int | None, *profiles: Any, kind: str = "tensorrt"
) -> Callable[[Any], None]:
    return _engine("text", kind=kind, batch={"min": low, "opt": opt, "max": high}, profiles=list(profiles))


def _huge(data: Any) -> None:
    data["preprocess"]["size"] = [4096, 4096]
    data["towers"]["image"]["input"]["shape"] = ["N", 4096, 4096, 3]
    sizes = {"min": 200, "opt": 200, "max": 200}
    _engine("image", kind="tensorrt", batch=sizes, profiles=[{"batch": sizes}])(data)


TWO = {"min": 2, "opt": 2, "max": 2}


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(towers={}, tokenizer=None),
        lambda data: data.update(tokenizer=None),
        _drop("text", True),
        _drop("image", False),
        lambda data: data["model"].update(logit_scale=0),
        lambda data: data["towers"]["image"]["output"].update(dtype="int32"),
        lambda data: data["towers"]["text"]["output"].update(shape=["N", 3]),
        lambda data: data["towers"]["image"]["input"].update(shape=["N", 3, 3, 3]),
        lambda data: data["towers"]["image"]["input"].update(dtype="int32"),
        lambda data: data["towers"]["image"].update(length=data["towers"]["text"]["length"]),
        lambda data: data["towers"]["text"].pop("length"),
        lambda data: data["towers"]["text"]["length"].update(max=76),
        lambda data: data["towers"]["text"]["length"].update(min=78),
        lambda data: data["towers"]["text"]["length"].update(pad_id=2**31 - 1),
        lambda data: (
            data["towers"]["text"]["length"].update(min=1)
            or data["towers"]["text"]["input"].update(shape=["N", data["tokenizer"]["context_length"]])
        ),
        lambda data: data["towers"]["text"]["input"].update(shape=["N", 76]),
        lambda data: data["towers"]["text"]["input"].update(shape=[1, "L"]),
        lambda data: data["towers"]["text"]["input"].update(shape=[]),
        lambda data: data["tokenizer"].update(pad_id=2**31 - 1),
        lambda data: data["tokenizer"].update(last_id=data["tokenizer"]["vocab_size"]),
        _batch(1, None, None),
        _batch(2, 1, None),
        _batch(1, 3, 2),
        _batch(1, 2, None, kind="later"),
        _batch(2, 2, 2),
        _batch(2, 2, 2, {"batch": TWO}),
        _batch(2, 2, 2, {"batch": TWO}, kind="onnxruntime"),
        _batch(2, 2, 2, {"batch": TWO}, kind="aotinductor"),
        _batch(2, 2, 2, {"batch": TWO | {"max": 3}}),
        _batch(2, 2, 2, {"batch": TWO | {"opt": 1}}),
        _batch(1, 2, 2, {"batch": TWO, "length": {"min": 1, "opt": 1, "max": 78}}),
        _engine("image", profiles=[{"batch": {"min": 1, "opt": 1, "max": 1}, "length": TWO}]),
        _engine("text", input_layout="packed"),
        _engine("text", input_layout="packed", kind="aotinductor"),
        _engine("image", input_layout="packed", kind="aotinductor"),
        _huge,
        lambda data: data["accuracy"][0].update(eager={}),
        lambda data: data["accuracy"][0]["change"].update({"it's\n" * 60: FIGURES["top1"]}),
    ],
)
def test_fields_that_contradict(change: Callable[[Any], object], cpp: CppLibrary, original: Any, bundle: Path) -> None:
    data = copy.deepcopy(original)
    change(data)
    write(bundle, data)
    same_answer(cpp, bundle)


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
    edit_manifest(bundle_copy, _engine("image", file=names[0]))
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


def _header(text: str, content: bytes = b"") -> bytes:
    """A .npy array with this header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + content


def _archive(arrays: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in arrays.items():
            archive.writestr(f"{name}.npy", content)
    return file.getvalue()


def _shaped(shape: str) -> bytes:
    return _archive({"image_pixels": _header(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}")})


def _claiming(size: int) -> bytes:
    """An archive whose directory claims that its array has so many bytes."""
    data = bytearray(_archive({"image_pixels": _header("{}")}, zipfile.ZIP_DEFLATED))
    struct.pack_into("<I", data, data.rindex(b"PK\x01\x02") + 24, size)
    return bytes(data)


ARCHIVES = {
    "empty": b"",
    "no archive": b"PK\x03\x04" * 50,
    "no dictionary": _archive({"image_pixels": _header("[]")}),
    "objects": _archive({"image_pixels": _header("{'descr': '|O', 'fortran_order': False, 'shape': (0,), }")}),
    "too many items": _shaped(f"({2**60},)"),
    "a product that overflows": _shaped(f"({2**33}, {2**33})"),
    "fewer bytes than items": _shaped("(5,)"),
    "a claim": _claiming(2**32 - 2),
}


@pytest.mark.parametrize("name", ARCHIVES)
def test_damaged_reference_files(name: str, cpp: CppLibrary, bundle_copy: Path) -> None:
    (bundle_copy / "reference.npz").write_bytes(ARCHIVES[name])
    relist(bundle_copy, ["reference.npz"])
    with pytest.raises(BundleError, match=r"reference\.npz is missing or damaged .*: copy or export the bundle again"):
        cpp.verify(bundle_copy, towers=1)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_reference_files_of_every_layout(save: Any, cpp: CppLibrary, bundle_copy: Path) -> None:
    """Stored or deflated members, and arrays in Fortran's order, hold the same numbers."""
    path = bundle_copy / "reference.npz"
    with np.load(path) as archive:
        arrays = {name: np.asfortranarray(array) if array.ndim else array for name, array in archive.items()}
    save(path, **arrays)
    relist(bundle_copy, ["reference.npz"])
    assert cpp.verify(bundle_copy, towers=1)["passed"]
