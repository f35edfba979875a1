"""Where an ONNX file keeps its weights, read from the protobuf bytes alone: serving does not need the onnx package.

Only the fields on the way to ``TensorProto.external_data`` are looked at; `message_fields` reads any message. Field numbers are
those of onnx.proto (ONNX, IR version 3 and later); the wire format is protobuf's.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engines.errors import BundleError

# Message field numbers that may hold tensors, by message; the value is the kind of message inside.
_CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA = 8, 13
_DEPTH_LIMIT = 64


@dataclass(frozen=True)
class ExternalData:
    """One tensor's place in a data file."""

    tensor: str
    location: str  # relative to the ONNX file's folder
    offset: int
    length: int | None  # bytes; None: to the end of the file


def read_external_data(path: Path) -> list[ExternalData]:
    """All external tensors of an ONNX file.

    Raises:
        BundleError: the file is not an ONNX model.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise BundleError(f"{path} is empty")
        found: list[ExternalData] = []
        _walk(memoryview(data), "model", found, 0)
        return found
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise BundleError(f"{path} is not an ONNX file, or is damaged: {error}") from error


def check_external_data(path: Path, folder: Path) -> None:
    """Check that the weights of an ONNX file lie inside `folder` and inside their files.

    Raises:
        BundleError: a location that is absolute or leaves the folder, a data file that is missing or too short.
    """
    sizes: dict[str, int] = {}
    for item in read_external_data(path):
        if item.location not in sizes:
            target = path.parent / item.location
            inside = target.resolve().is_relative_to(folder.resolve())
            if Path(item.location).is_absolute() or "\\" in item.location or not inside:
                raise BundleError(f"{path} keeps weights at {item.location!r}, outside the bundle {folder}")
            if not target.is_file():
                raise BundleError(f"{path} needs {item.location}, which is missing: copy or export the bundle again")
            sizes[item.location] = target.stat().st_size
        end = item.offset + (item.length or 0)
        if item.offset < 0 or end > sizes[item.location]:
            raise BundleError(
                f"{item.location} has {sizes[item.location]} bytes, but {path.name} keeps tensor {item.tensor} at bytes "
                f"{item.offset} to {end}: the file was cut; copy or export the bundle again"
            )


def message_fields(view: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """(field number, wire type, payload) of one message."""
    at = 0
    while at < len(view):
        key, at = read_varint(view, at)
        number, wire = key >> 3, key & 7
        if number == 0:
            raise ValueError("field number 0")
        if wire == 0:
            value, at = read_varint(view, at)
            yield number, wire, value
        elif wire == 2:
            size, at = read_varint(view, at)
            if at + size > len(view):
                raise ValueError("a field runs past the end")
            yield number, wire, view[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
            if at > len(view):
                raise ValueError("a field runs past the end")
        else:
            raise ValueError(f"wire type {wire}")


def read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """The number that begins at an offset, and the offset after it."""
    value = shift = 0
    while True:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number is too long")


def _walk(view: memoryview, kind: str, found: list[ExternalData], depth: int) -> None:
    if depth > _DEPTH_LIMIT:
        raise ValueError("graphs are nested too deeply")
    if kind == "tensor":
        item = _external(view)
        if item is not None:
            found.append(item)
        return
    children = _CHILDREN[kind]
    for number, _, payload in message_fields(view):
        if number in children and isinstance(payload, memoryview):
            _walk(payload, children[number], found, depth + 1)


def _external(view: memoryview) -> ExternalData | None:
    name = ""
    entries: dict[str, str] = {}
    for number, _, payload in message_fields(view):
        if not isinstance(payload, memoryview):
            continue
        if number == _TENSOR_NAME:
            name = bytes(payload).decode("utf-8", "replace")
        elif number == _TENSOR_EXTERNAL_DATA:
            pair = {n: bytes(p).decode() for n, _, p in message_fields(payload) if isinstance(p, memoryview)}
            entries[pair.get(1, "")] = pair.get(2, "")
    if "location" not in entries:
        return None
    length = int(entries["length"]) if "length" in entries else None
    return ExternalData(name, entries["location"], int(entries.get("offset", "0")), length)
