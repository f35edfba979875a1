"""The log of the pretended CUDA libraries: which calls were made, by which thread, in which section."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ALLOCATIONS = frozenset({"cudaMalloc", "cuMemAlloc", "cudaMallocHost", "cudaHostAlloc", "cuMemHostAlloc"})
COPIES = frozenset({"cudaMemcpy", "cudaMemcpyAsync", "cuMemcpyAsync"})
_SET_STREAM = ("cublasSetStream_v2", "cudnnSetStream")
# Calls of cuBLAS and cuDNN launch kernels, but for those that make, set and ask. cudnnSetTensor sets numbers on the device.
_MATH_CALL = re.compile(r"(?:cublas|cudnn)[A-Z]")
_MAKES_SETS_ASKS = re.compile(
    r"Create|Destroy|Set(?!Tensor$)|Get|Init|Finalize|Make|Build|Derive|Query|Restore|Version|CudaGraph"
)
# The host waits for the device in these; freeing memory waits, too, unless it is done in the order of a stream.
_WAITS = frozenset(
    {
        "cudaDeviceSynchronize",
        "cudaStreamSynchronize",
        "cudaEventSynchronize",
        "cudaFree",
        "cudaFreeHost",
        "cudaMemcpyFromSymbol",
        "cuStreamSynchronize",
        "cuEventSynchronize",
        "cuMemFree",
        "cuMemFreeHost",
    }
)


@dataclass(frozen=True)
class Call:
    """A call of CUDA.

    Attributes:
        thread: the system's number of the thread that made it.
        name: of the function; ``launch`` is a kernel of ONNX Runtime's.
        values: its arguments, as the libraries write them.
    """

    thread: int
    name: str
    values: dict[str, str]

    @property
    def stream(self) -> int:
        """Handle of the stream; 0 is the default stream."""
        return address(self.values["stream"])

    @property
    def launches(self) -> bool:
        """Whether it launches a kernel: one of ONNX Runtime's, of cuBLAS or of cuDNN."""
        if self.name == "launch":
            return True
        return _MATH_CALL.match(self.name) is not None and _MAKES_SETS_ASKS.search(self.name) is None

    @property
    def waits(self) -> bool:
        """Whether the host waits for the device in it.

        A synchronous copy waits unless both sides are on the device. A copy in a stream waits where it is from or to pageable
        memory of the host: CUDA then waits for the stream by itself.
        """
        if self.name not in COPIES:
            return self.name in _WAITS
        sides = {self.values["from"], self.values["to"]}
        return "pageable" in sides or (self.name == "cudaMemcpy" and "pinned" in sides)


def read_log(path: Path) -> dict[str, list[Call]]:
    """The calls of each section, in their order. Sections of one name are put together; ``start`` is before the first.

    Calls of cuBLAS and cuDNN have no stream among their arguments: they get the one that their handle was set to.
    """
    sections: dict[str, list[Call]] = {"start": []}
    calls = sections["start"]
    streams: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        thread, name, *rest = line.split(" ")
        if name == "--":
            calls = sections.setdefault(" ".join(rest), [])
        else:
            values = dict(part.split("=", 1) for part in rest)
            if name in _SET_STREAM:
                streams[values["first"]] = values["stream"]
            elif values.get("first") in streams:
                values["stream"] = streams[values["first"]]
            calls.append(Call(int(thread), name, values))
    return sections


def waits(calls: Iterable[Call]) -> list[Call]:
    """Those in which the host waits for the device."""
    return [call for call in calls if call.waits]


def kernels(calls: Iterable[Call]) -> list[Call]:
    """Those that launch kernels."""
    return [call for call in calls if call.launches]


def only(calls: Iterable[Call], names: Iterable[str]) -> list[Call]:
    """Those of some names."""
    wanted = frozenset(names)
    return [call for call in calls if call.name in wanted]


def address(text: str) -> int:
    """A pointer as the libraries write it."""
    return 0 if text == "(nil)" else int(text, 16)
