"""The contenders: one module for each kind, and one entry here for each.

A module has ``why_not(subject, contender, device)``, which returns in words why it cannot run here (None: it can), and
``open_tower(subject, contender, tower, device, folder)``, which loads it and returns an `Opened`. A module that needs files made
first has ``setup(subject, contender, tower, folder)``, which runs in a process of its own and is not measured. They are called in
the contender's process only, and import libraries when they are called: the modules are imported in the run's own process, too.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Protocol

from benchmarks.records.precisions import UNQUANTIZED

if TYPE_CHECKING:
    from benchmarks.workloads.inputs import Case
    from benchmarks.workloads.subject import Subject

Call = Callable[[int], object]  # runs the i-th set of a case's inputs

MODULES = {
    "eager": "benchmarks.contenders.eager",
    "torch.compile": "benchmarks.contenders.eager",
    "torch.compile max-autotune": "benchmarks.contenders.eager",
    "triton kernels": "benchmarks.contenders.swapped",
    "onnxruntime plain": "benchmarks.contenders.plain_onnxruntime",
    "openvino plain": "benchmarks.contenders.openvino",
    "openvino nncf": "benchmarks.contenders.openvino_int8",
    "torch-tensorrt": "benchmarks.contenders.torch_tensorrt",
    "null": "benchmarks.contenders.null",
}
BUNDLE_MODULE = "benchmarks.contenders.bundle"  # every engine of a bundle
BASELINE = "eager"
_GPU_ONLY = ("triton kernels", "torch-tensorrt")
_CPU_ONLY = ("openvino plain", "openvino nncf")
_INT8_ONLY = ("openvino nncf",)  # a peer of int8 bundles
_FLOAT32_ONLY = ("onnxruntime plain", "openvino plain")  # open_clip's half models do not go through the plain export


def missing_library(*modules: str) -> str | None:
    """Why the first of these libraries that cannot be imported cannot, in words; None if all can be."""
    from engines.process.optional import error_words

    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            return f"not installed: {error.name}"
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever a broken library raises
            return f"{module} cannot be imported: {error_words(error)}"
    return None


@dataclass(frozen=True)
class Contender:
    """One way to run a model.

    Attributes:
        engine: a key of `MODULES`, or the kind of one of the bundle's engines.
        precision: precision of weights and arithmetic: ``fp32``, ``fp16``, ``bf16``, ….
        of_bundle: whether it is an engine of the bundle.
    """

    engine: str
    precision: str
    of_bundle: bool = False

    @property
    def label(self) -> str:
        """``torch.compile fp16``."""
        return f"{self.engine} {self.precision}"

    def takes(self, case: Case) -> bool:
        """Whether the contender can run the case: only eager and the bundle's engines run from files to embeddings."""
        return case.kind != "files" or self.of_bundle or self.engine == BASELINE

    @property
    def module(self) -> ModuleType:
        """The module that runs it."""
        return importlib.import_module(BUNDLE_MODULE if self.of_bundle else MODULES[self.engine])


class Opened(Protocol):
    """A loaded contender.

    Attributes:
        versions: names and versions of the libraries that compute.
        weights: ``random``, or the origin of the weights.
        note: a remark for readers, or empty.
        threads: number of threads that compute on the CPU.
        on_stream: calls return before the GPU is done: time them by events on torch's current stream.
    """

    versions: str
    weights: str
    note: str
    threads: int
    on_stream: bool

    def prepare(self, case: Case) -> Call:
        """Load a case's inputs to the contender's device, and return the function that runs one set of them."""

    def figures(self) -> dict[str, float]:
        """The contender's own figures about the last call, by their names in `benchmarks.records.figures.FIGURES`."""


def contenders_of(subject: Subject, device: str, wanted: Sequence[str] = ()) -> list[Contender]:
    """All contenders that can be compared for a model on a device, eager float32 first.

    Args:
        subject: the model.
        device: ``cpu`` or ``cuda``.
        wanted: engines, to take only those (and the baseline); empty is all.

    Raises:
        ValueError: an engine is neither known nor in the bundle.
    """
    known = [*MODULES, *subject.kinds]
    for engine in wanted:
        if engine not in known:
            raise ValueError(f"contender {engine!r} is none of {', '.join(known)}")
    half = tuple(name for name in UNQUANTIZED if name != "fp32") if device == "cuda" else ()
    found = [Contender(BASELINE, "fp32")]
    for engine in MODULES:
        precisions = ("fp32",) if engine in _FLOAT32_ONLY or device == "cpu" or engine == "null" else ("fp32", *half)
        if engine in (_CPU_ONLY if device == "cuda" else _GPU_ONLY) and engine not in wanted:
            continue
        if engine == "torch-tensorrt":
            precisions = ("fp16",)
        if engine in _INT8_ONLY:
            precisions = ("int8",)
            if subject.precision != "int8" and engine not in wanted:
                continue
        found += [Contender(engine, precision) for precision in precisions]
    found += [Contender(kind, subject.precision, of_bundle=True) for kind in subject.kinds]
    chosen = [c for c in dict.fromkeys(found) if not wanted or c.engine in wanted or c == found[0]]
    return chosen
