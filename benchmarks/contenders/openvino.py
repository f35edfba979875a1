"""OpenVINO on the CPU, on a plain export."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Call, Contender, missing_library
from benchmarks.contenders.plain_onnx import export_plain, plain_graph, plain_inputs
from benchmarks.records.machine import usable_cores
from benchmarks.workloads.inputs import SETS, Case

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """OpenVINO, or what the export needs, is missing."""
    return missing_library("onnxscript", "open_clip", "openvino")


def setup(subject: Subject, contender: Contender, tower: str, folder: Path) -> None:
    """Export the tower."""
    export_plain(subject, tower, folder)


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> OpenVINOTower:
    """Compile the tower for one request at a time on all cores, in the graph's float32."""
    import openvino

    core = openvino_core()
    config = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(core.read_model(str(plain_graph(folder, tower))), "CPU", config)
    return OpenVINOTower(compiled, subject, f"openvino {openvino.__version__.split('-')[0]}")


@functools.cache
def openvino_core() -> Any:
    """The process's one core: after a second one has ended, a signal such as Ctrl-C ends the process."""
    import openvino

    return openvino.Core()


class OpenVINOTower:
    """A compiled model."""

    on_stream = False
    note = "plain torch.onnx.export"

    def __init__(self, compiled: Any, subject: Subject, versions: str) -> None:
        self._request, self._subject = compiled.create_infer_request(), subject
        self.versions, self.threads = versions, usable_cores()
        self.weights = "random" if subject.pretrained == "none" else (subject.pretrained or subject.source)

    def prepare(self, case: Case) -> Call:
        """Load the inputs as numpy arrays."""
        sets = plain_inputs(self._subject, case.kind, case.load())
        return lambda i: self._request.infer([sets[i % SETS]])

    def figures(self) -> dict[str, float]:
        """No figures."""
        return {}
