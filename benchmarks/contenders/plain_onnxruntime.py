"""ONNX Runtime with its defaults on a plain export, as users run it without this project."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.contenders import Call, Contender, missing_library
from benchmarks.contenders.plain_onnx import export_plain, plain_graph, plain_inputs
from benchmarks.records.machine import usable_cores
from benchmarks.workloads.inputs import SETS, Case

if TYPE_CHECKING:
    from benchmarks.workloads.subject import Subject


def why_not(subject: Subject, contender: Contender, device: str) -> str | None:
    """ONNX Runtime, its CUDA provider, or what the export needs is missing."""
    missing = missing_library("onnxruntime", "onnxscript", "open_clip")
    if missing is not None:
        return missing
    import onnxruntime

    if device == "cuda" and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return "this ONNX Runtime has no CUDA provider"
    return None


def setup(subject: Subject, contender: Contender, tower: str, folder: Path) -> None:
    """Export the tower."""
    export_plain(subject, tower, folder)


def open_tower(subject: Subject, contender: Contender, tower: str, device: str, folder: Path) -> PlainTower:
    """A session with the library's defaults."""
    import onnxruntime

    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    provider = "CUDAExecutionProvider" if device == "cuda" else "CPUExecutionProvider"
    session = onnxruntime.InferenceSession(plain_graph(folder, tower), providers=[provider])
    used = session.get_providers()[0]
    if used != provider:
        raise RuntimeError(f"{provider} did not start, {used} did")
    return PlainTower(session, subject, f"onnxruntime {onnxruntime.__version__}", provider)


class PlainTower:
    """A session."""

    on_stream = False

    def __init__(self, session: Any, subject: Subject, versions: str, provider: str) -> None:
        self._session, self._subject = session, subject
        self.versions, self.note = versions, f"plain torch.onnx.export, {provider}"
        self.weights = subject.pretrained or subject.source
        if self.weights == "none":
            self.weights = "random"
        self.threads = usable_cores() if provider.startswith("CPU") else 0

    def prepare(self, case: Case) -> Call:
        """Load the inputs as numpy arrays."""
        sets = plain_inputs(self._subject, case.kind, case.load())
        name = self._session.get_inputs()[0].name
        return lambda i: self._session.run(None, {name: sets[i % SETS]})

    def figures(self) -> dict[str, float]:
        """No figures."""
        return {}
