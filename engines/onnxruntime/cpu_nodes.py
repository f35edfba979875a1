"""Nodes of a graph that ONNX Runtime runs on the CPU although the graph is on a GPU, and the unwanted ones among them.

ONNX Runtime runs every node that its CUDA provider does not take on the CPU, without a message: the values are copied to the host
and back at every call, and the GPU waits for the copies. Releases before 1.25 did so with the Attention operator of opset 23.

Its own option against that, ``session.disable_cpu_ep_fallback``, cannot be used here: it also refuses the few nodes that compute
shapes, which ONNX Runtime puts on the CPU on purpose, because shapes are there already and nothing is copied for them. So the
places of nodes are read from the session (``session.record_ep_graph_assignment_info``, since 1.24), and the nodes that compute from
shapes alone are read from the graph's file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engines.errors import BundleError, EngineUnavailableError
from engines.files.onnx_external_data import message_fields, read_varint

RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"  # a session option: "1" makes `cpu_nodes` possible
_CPU = "CPUExecutionProvider"
_OR = "or load with device='cpu' (on the command line: --device cpu), or, in Python, with cpu_nodes='allow'"
_NAMED = 3  # largest number of nodes that a message names
# Field numbers of onnx.proto.
_MODEL_GRAPH, _GRAPH_NODE, _GRAPH_INITIALIZER = 7, 1, 5
_NODE_INPUT, _NODE_OUTPUT, _NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN = 1, 2, 3, 4, 7
_NODE_ATTRIBUTE, _ATTRIBUTE_TENSOR = 5, 5
_TENSOR_DIMS, _TENSOR_TYPE, _TENSOR_NAME = 1, 2, 8
_WHOLE = (6, 7, 9)  # int32, int64, bool of TensorProto.DataType
_SHAPES = ("Shape", "Size")  # operators whose result lies on the host, wherever their input is
_CONTROL_FLOW = ("If", "Loop", "Scan")  # operators that may read values that are not among their inputs
# Largest number of elements of a constant in shape arithmetic on the CPU (ONNX Runtime's kSmallInitializerThreshold). A constant of
# other numbers than whole ones may have a single element, because weights may be that short, too.
_SMALL = 100


@dataclass(frozen=True)
class Node:
    """A node of a graph: its name and its operator."""

    name: str
    operator: str

    def __str__(self) -> str:
        return f"{self.operator} {self.name}"


def cpu_nodes(session: Any) -> list[Node] | None:
    """The nodes that a session runs on the CPU; None if this release of ONNX Runtime does not report them.

    Args:
        session: an `onnxruntime.InferenceSession` that was made with `RECORD_ASSIGNMENT` set to ``"1"``.
    """
    assignment = getattr(session, "get_provider_graph_assignment_info", None)
    if assignment is None:
        return None
    groups = [group for group in assignment() if group.ep_name == _CPU]
    return [Node(node.name, node.op_type) for group in groups for node in group.get_nodes()]


def shape_nodes(path: Path) -> frozenset[str]:
    """Names of a graph's nodes that compute from shapes and small constants alone, for which nothing is copied to the CPU.

    Args:
        path: the ONNX file.

    Raises:
        BundleError: the file is not an ONNX model.
    """
    try:
        graph = _only(memoryview(path.read_bytes()), _MODEL_GRAPH)
        return _shape_nodes(graph)
    except OSError as error:
        raise BundleError(f"cannot read {path}: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise BundleError(f"{path} is not an ONNX file, or is damaged: {error}") from error


def unasked(nodes: Iterable[Node], path: Path) -> list[Node]:
    """The nodes of `cpu_nodes` that do not compute shapes; nodes that the optimizer made and that the file lacks are among them."""
    on_cpu = list(nodes)
    expected = shape_nodes(path) if on_cpu else frozenset()
    return [node for node in on_cpu if node.name not in expected]


def check_nodes(session: Any, path: Path, version: str) -> None:
    """Refuse a session on a GPU that runs nodes on the CPU.

    Args:
        session: see `cpu_nodes`.
        path: the ONNX file of the session.
        version: version of ONNX Runtime.

    Raises:
        EngineUnavailableError: nodes run on the CPU, and the message names them; or ONNX Runtime does not report them.
    """
    nodes = cpu_nodes(session)
    if nodes is None:
        raise EngineUnavailableError(
            f"ONNX Runtime {version} does not tell which nodes it runs on the CPU: install onnxruntime-gpu 1.28 or newer, {_OR}"
        )
    refused = unasked(nodes, path)
    if refused:
        raise EngineUnavailableError(refusal(refused, path.name, version))


def refusal(nodes: list[Node], file: str, version: str) -> str:
    """The sentence about nodes that would run on the CPU.

    Args:
        nodes: nodes that `unasked` returned, at least one.
        file: the graph's name.
        version: version of ONNX Runtime.
    """
    one = len(nodes) == 1
    rest = len(nodes) - _NAMED
    named = ", ".join(map(str, nodes[:_NAMED])) + (f" and {rest} more" if rest > 0 else "")
    operators = Counter(node.operator for node in nodes)
    if "Attention" in operators and _before(version, (1, 25)):
        remedy = "install onnxruntime-gpu 1.28 or newer"
    elif set(operators) <= {"ArgMax"}:
        remedy = "export the model again with this release"
    else:
        remedy = "install a newer onnxruntime-gpu, or use another engine of the bundle"
    return (
        f"ONNX Runtime {version} has no CUDA kernel for {len(nodes)} node{'' if one else 's'} of {file} ({named}) and would run "
        f"{'it' if one else 'them'} on the CPU, with copies there and back at every call: {remedy}, {_OR}"
    )


def _shape_nodes(graph: memoryview) -> frozenset[str]:
    nodes, on_host = [], {""}  # the empty name stands for an input that is left out
    for number, _, payload in message_fields(graph):
        if not isinstance(payload, memoryview):
            continue
        if number == _GRAPH_NODE:
            nodes.append(payload)
        elif number == _GRAPH_INITIALIZER:
            name, small = _tensor(payload)
            if small:
                on_host.add(name)
    names = set()
    for node in nodes:  # every value comes before its use, because ONNX demands that order
        inputs, outputs, name, operator, domain = _node(node)
        if (operator in _SHAPES and not domain) or (operator == "Constant" and _small_constant(node)):
            on_host.update(outputs)
        elif operator not in _CONTROL_FLOW and inputs and on_host.issuperset(inputs):
            on_host.update(outputs)
            names.add(name)
    return frozenset(names)


def _node(view: memoryview) -> tuple[list[str], list[str], str, str, str]:
    """A node's inputs, outputs, name, operator and domain."""
    fields: dict[int, list[str]] = {}
    for number, _, payload in message_fields(view):
        if isinstance(payload, memoryview) and number in (
            _NODE_INPUT,
            _NODE_OUTPUT,
            _NODE_NAME,
            _NODE_OPERATOR,
            _NODE_DOMAIN,
        ):
            fields.setdefault(number, []).append(_text(payload))
    name, operator, domain = (fields.get(number, [""])[-1] for number in (_NODE_NAME, _NODE_OPERATOR, _NODE_DOMAIN))
    return fields.get(_NODE_INPUT, []), fields.get(_NODE_OUTPUT, []), name, operator, domain


def _small_constant(node: memoryview) -> bool:
    """Whether a Constant node's value is as small as in shape arithmetic; a value that is no tensor is one number or a few."""
    attributes = [payload for number, _, payload in message_fields(node) if number == _NODE_ATTRIBUTE]
    tensors = [
        payload
        for attribute in attributes
        if isinstance(attribute, memoryview)
        for number, _, payload in message_fields(attribute)
        if number == _ATTRIBUTE_TENSOR and isinstance(payload, memoryview)
    ]
    return all(_tensor(tensor)[1] for tensor in tensors)


def _tensor(view: memoryview) -> tuple[str, bool]:
    """A tensor's name, and whether the tensor is as small as the constants of shape arithmetic."""
    name, elements, whole = "", 1, False
    for number, _, payload in message_fields(view):
        if number == _TENSOR_NAME and isinstance(payload, memoryview):
            name = _text(payload)
        elif number == _TENSOR_TYPE:
            whole = payload in _WHOLE
        elif number == _TENSOR_DIMS:
            for size in _sizes(payload):
                elements *= size
    return name, elements <= (_SMALL if whole else 1)


def _sizes(payload: memoryview | int) -> list[int]:
    """The dimensions in a field: one, or several that are packed."""
    if isinstance(payload, int):
        return [payload]
    sizes, at = [], 0
    while at < len(payload):
        size, at = read_varint(payload, at)
        sizes.append(size)
    return sizes


def _only(view: memoryview, wanted: int) -> memoryview:
    for number, _, payload in message_fields(view):
        if number == wanted and isinstance(payload, memoryview):
            return payload
    raise ValueError("it has no graph")


def _text(payload: memoryview) -> str:
    return bytes(payload).decode("utf-8", "replace")


def _before(version: str, release: tuple[int, int]) -> bool:
    parts = version.split("+")[0].split(".")[:2]
    return all(part.isdecimal() for part in parts) and tuple(map(int, parts)) < release
