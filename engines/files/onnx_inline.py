"""Conversion of an ONNX graph whose weights lie in separate files into one message with the weights inside.

Libraries that do not open weights through a link need it. Only the messages on the way to a tensor are written anew; see
`engines.files.onnx_external_data` for the field numbers.
"""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path

from engines.errors import BundleError, EngineError
from engines.files.onnx_external_data import CHILDREN, external_data, message_parts

# Protobuf's own limit for a message. The graph and each weight's name are small beside the weights.
MAX_MESSAGE_BYTES = (1 << 31) - 1
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_BYTES = 2  # protobuf's wire type of messages and bytes

_Piece = bytes | memoryview


def inline_weights(path: Path, files: Mapping[str, Path], remedy: str, limit: int | None = None) -> bytes:
    """The bytes of a graph with all of its weights inside.

    Args:
        path: path of the graph.
        files: location in the graph to the path of the data file (`engines.files.onnx_external_data.data_elsewhere`).
        remedy: the remedy for a message that would be too large, the end of the error's sentence.
        limit: largest number of bytes in the message; None is protobuf's limit.

    Raises:
        BundleError: a file cannot be read.
        EngineError: the message would be larger than `limit`.
    """
    limit = MAX_MESSAGE_BYTES if limit is None else limit
    try:
        data = {location: _mapped(file) for location, file in files.items()}
        graph = path.read_bytes()
    except OSError as error:
        raise BundleError(f"cannot read {path} and its weights: {error.strerror or error}") from error
    pieces = _written(memoryview(graph), "model", data)
    size = sum(map(len, pieces))
    if size > limit:
        raise EngineError(
            f"{path} has {size} bytes with its weights, and more than {limit} cannot be handed over: {remedy}"
        )
    return b"".join(pieces)


def _mapped(file: Path) -> memoryview:
    if not file.stat().st_size:
        return memoryview(b"")
    with file.open("rb") as opened:
        return memoryview(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))


def _written(view: memoryview, kind: str, data: Mapping[str, memoryview]) -> list[_Piece]:
    """A message's bytes in pieces, with weights in the place of the fields that name their files."""
    item = external_data(view) if kind == "tensor" else None
    pieces: list[_Piece] = []
    for number, _, payload, whole in message_parts(view):
        if item is not None and number in (_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION):
            continue
        child = CHILDREN[kind].get(number)
        if child is not None and isinstance(payload, memoryview):
            pieces += _field(number, _written(payload, child, data))
        else:
            pieces.append(whole)
    if item is not None:
        weights = data[item.location]
        end = len(weights) if item.length is None else item.offset + item.length
        pieces += _field(_RAW_DATA, [weights[item.offset : end]])
    return pieces


def _field(number: int, pieces: list[_Piece]) -> list[_Piece]:
    return [_varint(number << 3 | _BYTES), _varint(sum(map(len, pieces))), *pieces]


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
