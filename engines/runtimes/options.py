"""The engine options of each kind, for type checkers and for the message about an unknown option; `open_tower` documents them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from engines.tensorrt.slot import GraphLimits

CpuNodes = Literal["error", "allow"]


class OnnxRuntimeOptions(TypedDict, total=False):
    """Options of ``engine="onnxruntime"``: see `engines.runtimes.onnxruntime.open_tower`."""

    threads: int | None
    cuda_memory_limit: int
    device_id: int
    cpu_nodes: CpuNodes
    cuda_graphs: bool | int | Iterable[int] | None


class OpenVINOOptions(TypedDict, total=False):
    """Options of ``engine="openvino"``: see `engines.runtimes.openvino.open_tower`."""

    threads: int | None


class TensorRTOptions(TypedDict, total=False):
    """Options of ``engine="tensorrt"`` and ``"tensorrt-rtx"``: see `engines.runtimes.tensorrt.open_tower`."""

    device_id: int
    parallel: int
    cuda_graphs: bool
    graph_limits: GraphLimits | None
    warm_up: bool


class AOTInductorOptions(TypedDict, total=False):
    """Options of ``engine="aotinductor"``: see `engines.runtimes.aotinductor.open_tower`."""

    threads: int | None
    parallel: int
    device_id: int
