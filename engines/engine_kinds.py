"""The kinds of engines, with their builders, runtimes and devices. Every other module reads this table.

A new kind is one entry here, a builder in ``exporter/builders/``, a runtime in ``engines/runtimes/``, and a `load` overload.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EngineKind:
    """One kind of engine.

    Attributes:
        name: the kind in manifests, on command lines and in ``engines.load(engine=...)``.
        runtime: the module that runs it, with ``why_not`` and ``open_tower`` (`engines.runtimes.choice`); imported when needed.
        builder: the module that builds it, with ``check`` and ``build`` (`exporter.builders.registry`); imported when needed.
        install: the extra of this project's distribution that installs its library.
        library: the Python module of its library.
        cpu: engines of this kind can compute on a CPU.
        cuda: engines of this kind can compute on an NVIDIA GPU.
        runs_graph: the engine's file is the tower's ONNX graph, so that nothing is built and no builder options apply. In int8
            graphs for these kinds, layers that are not quantized stay in float32.
        any_batch: the engine takes every batch of one row or more.
        gpu_targets: its builder takes names of GPU architectures as targets; which of them, it decides itself.
        builds_elsewhere: it can be built for GPUs that are not in this machine.
        packs_captions: its text engines can take captions that are laid end to end, without padding.
    """

    name: str
    runtime: str
    builder: str
    install: str
    library: str
    cpu: bool = False
    cuda: bool = False
    runs_graph: bool = False
    any_batch: bool = False
    gpu_targets: bool = False
    builds_elsewhere: bool = False
    packs_captions: bool = False

    @property
    def install_command(self) -> str:
        """The command that installs the kind's library."""
        return f"pip install 'openclip-engines[{self.install}]'"

    @property
    def needs_gpu(self) -> bool:
        """Whether engines of this kind can only run on a GPU."""
        return not self.cpu


# All kinds, in the order in which `engines.load` prefers them, other things being equal.
KINDS: dict[str, EngineKind] = {
    kind.name: kind
    for kind in (
        EngineKind(
            "tensorrt",
            runtime="engines.runtimes.tensorrt",
            builder="exporter.builders.tensorrt",
            install="gpu",
            library="tensorrt",
            cuda=True,
            gpu_targets=True,
        ),
        EngineKind(
            "tensorrt-rtx",
            runtime="engines.runtimes.tensorrt",
            builder="exporter.builders.tensorrt",
            install="rtx",
            library="tensorrt_rtx",
            cuda=True,
            gpu_targets=True,
            builds_elsewhere=True,
        ),
        EngineKind(
            "openvino",
            runtime="engines.runtimes.openvino",
            builder="exporter.builders.openvino",
            install="openvino",
            library="openvino",
            cpu=True,
            runs_graph=True,
            any_batch=True,
        ),
        EngineKind(
            "onnxruntime",
            runtime="engines.runtimes.onnxruntime",
            builder="exporter.builders.onnxruntime",
            install="cpu",
            library="onnxruntime",
            cpu=True,
            cuda=True,
            runs_graph=True,
            any_batch=True,
        ),
        EngineKind(
            "aotinductor",
            runtime="engines.runtimes.aotinductor",
            builder="exporter.builders.aotinductor",
            install="aot",
            library="torch",
            cpu=True,
            cuda=True,
            any_batch=True,
            packs_captions=True,
        ),
    )
}

# Kinds that the exporter's ``--engine auto`` takes with a GPU, and without one (or where the first cannot be built).
AUTO_WITH_GPU = "tensorrt"
AUTO_WITHOUT_GPU = "onnxruntime"
