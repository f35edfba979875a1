"""Places of an ONNX file's weights, read from the protobuf bytes alone, so that serving does not need the onnx package.

Only the fields on the way to ``TensorProto.external_data`` are read; `message_fields` reads any message. Field numbers are
those of onnx.proto (ONNX, IR version 3 and later); the wire format is protobuf's.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from engines.errors import BundleError
from engines.files.bundle_paths import leads_out, resolve_path

# Numbers of the fields that may hold tensors, by message; the value is the kind of message inside.
CHILDREN: dict[str, dict[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
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
    location: str  # path relative to the ONNX file's folder
    offset: int
    length: int | None  # number of bytes; None: to the end of the file


def read_external_data(path: Path) -> list[ExternalData]:
    """All external tensors of an ONNX file.

    Raises:
        BundleError: the file is not an ONNX model.
    """
    try:
        data = path.read_bytes()
        if not data:
            raise BundleError(f"{path} is empty")
        tensors: list[ExternalData] = []
        _walk(memoryview(data), "model", tensors, 0)
        return tensors
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise BundleError(f"{path} is not an ONNX file, or is damaged: {error}") from error


def check_external_data(folder: Path, graph: str, listed: Container[str]) -> None:
    """Check that the weights of an ONNX file lie in files of the bundle, and inside them.

    Args:
        folder: the bundle's folder.
        graph: path of the ONNX file in the bundle.
        listed: paths of the files that the manifest lists.

    Raises:
        BundleError: a location is absolute or leaves the folder, or a data file is not in `listed`, is missing or too short.
    """
    sizes: dict[str, int] = {}
    for item in read_external_data(resolve_path(folder, graph)):
        if item.location not in sizes:
            sizes[item.location] = _data_size(folder, graph, item.location, listed)
        end = item.offset + (item.length or 0)
        if item.offset < 0 or end < item.offset or end > sizes[item.location]:
            relative = (PurePosixPath(graph).parent / item.location).as_posix()
            raise BundleError(
                f"{relative} has {sizes[item.location]} bytes, but {graph} keeps tensor {item.tensor} at bytes "
                f"{item.offset} to {end}: the file was cut; copy or export the bundle again"
            )


def data_elsewhere(path: Path) -> dict[str, Path]:
    """The data files of an ONNX file, if one of them is a link to a file outside the ONNX file's folder; otherwise nothing.

    Libraries refuse such a file when they open the graph by its path: ONNX Runtime 1.24.1 always, later versions unless the graph
    is a link to the same folder, OpenVINO always.

    Args:
        path: path of a graph that has passed `check_external_data`.

    Returns:
        Location in the graph to the path of the data file.
    """
    files = {item.location: path.parent / item.location for item in read_external_data(path)}
    return files if any(leads_out(path.parent, file) for file in files.values()) else {}


def _data_size(folder: Path, graph: str, location: str, listed: Container[str]) -> int:
    relative = (PurePosixPath(graph).parent / location).as_posix()
    try:
        # No exporter writes a name with an asterisk, but ONNX Runtime and OpenVINO read one such name as an address in their own
        # process's memory.
        if "*" in location or location.startswith("/"):
            raise BundleError(location)
        target = resolve_path(folder, relative)
    except BundleError:
        shown = location if len(location) <= 100 else f"{location[:100]}…"
        raise BundleError(
            f"{graph} keeps weights at {shown!r}, outside the bundle {folder}: export the bundle again"
        ) from None
    if relative not in listed:
        raise BundleError(
            f"{graph} keeps weights in {relative}, which the manifest of {folder} does not list among its files: export the "
            "bundle again"
        )
    if not target.is_file():
        raise BundleError(
            f"{graph} needs {relative}, which is missing in bundle {folder}: copy or export the bundle again"
        )
    return target.stat().st_size


def message_fields(view: memoryview) -> Iterator[tuple[int, int, memoryview | int]]:
    """Fields of one message, (field number, wire type, payload), without its numbers of fixed width."""
    for number, wire, payload, _ in message_parts(view):
        if payload is not None:
            yield number, wire, payload


def message_parts(view: memoryview) -> Iterator[tuple[int, int, memoryview | int | None, memoryview]]:
    """Fields of one message: (field number, wire type, payload, all bytes of the field); no payload for a number of fixed width."""
    at = 0
    while at < len(view):
        start = at
        key, at = read_varint(view, at)
        number, wire = key >> 3, key & 7
        payload: memoryview | int | None = None
        if number == 0:
            raise ValueError("field number 0")
        if wire == 0:
            payload, at = read_varint(view, at)
        elif wire == 2:
            size, at = read_varint(view, at)
            payload = view[at : at + size]
            at += size
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(view):
            raise ValueError("a field runs past the end")
        yield number, wire, payload, view[start:at]


def read_varint(view: memoryview, at: int) -> tuple[int, int]:
    """The varint that begins at offset `at`, and the offset after it."""
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
        item = external_data(view)
        if item is not None:
            found.append(item)
        return
    children = CHILDREN[kind]
    for number, _, payload in message_fields(view):
        if number in children and isinstance(payload, memoryview):
            _walk(payload, children[number], found, depth + 1)


def external_data(view: memoryview) -> ExternalData | None:
    """The place of a tensor's values in a data file; None: they are in the message itself."""
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
