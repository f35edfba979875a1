"""The building process of one engine: ``python -m exporter.tensorrt.worker RESULT``, with a `BuildJob` as JSON on its input.

It imports neither torch nor the exporter's larger parts, so that its measured memory is the builder's.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from engines.manifest import Build
from exporter.child_process import serve
from exporter.memory import peak_memory
from exporter.tensorrt.attention import FusedKernels, mark_decomposable, strongly_typed_flags
from exporter.tensorrt.job import BuildJob, BuildResult


def build(job: BuildJob) -> BuildResult:
    """Parse the graph, mark its attentions, build the engine, and write the plan."""
    from polygraphy.backend.trt import EngineBytesFromNetwork, NetworkFromOnnxPath
    from polygraphy.logger import G_LOGGER

    G_LOGGER.module_severity = {"": G_LOGGER.WARNING}
    trt = _library(job.kind)
    start = time.perf_counter()
    # Strongly typed, so that precisions are the graph's in every version of both libraries.
    builder, network, parser = NetworkFromOnnxPath(job.graph, strongly_typed=bool(strongly_typed_flags(trt)))()
    notes: list[str] = []
    config = _config(job, trt, notes)

    def bare() -> Any:
        return _config(msgspec.structs.replace(job, shapes=(), strip_weights=False), trt, [], profiles=False)(
            builder, None
        )

    with _silenced():
        fused, decomposed = mark_decomposable(trt, network, FusedKernels(trt, builder, bare))
    layers = _layers(network)
    cache = None if notes else job.timing_cache
    memory = EngineBytesFromNetwork((builder, network, parser), config=config, save_timing_cache=cache)()
    with Path(job.plan).open("wb") as file:
        file.write(memory)
    seconds = time.perf_counter() - start
    peak = peak_memory()
    inspected = _inspect(trt, job)
    options: dict[str, bool | int | str] = {}
    for name in ("workspace", "optimization_level", "version_compatible", "hardware_compatible", "strip_weights"):
        value = getattr(job, name)
        if value not in (None, False):
            options[name] = value
    return BuildResult(
        version=trt.__version__,
        build=Build(
            seconds=round(seconds, 3),
            peak_memory_bytes=peak,
            fused_attention=fused,
            decomposed_attention=decomposed,
            layers=layers,
            options=options,
        ),
        inspected=inspected,
        notes=tuple(notes),
    )


def _library(kind: str) -> Any:
    if kind == "tensorrt-rtx":
        import tensorrt_rtx as trt
    else:
        import tensorrt as trt
    return trt


def _config(job: BuildJob, trt: Any, notes: list[str], profiles: bool = True) -> Callable[[Any, Any], Any]:
    """Make a function from a builder and its network to the builder's configuration, by Polygraphy."""
    from polygraphy.backend.tensorrt_rtx import CreateConfigRTX
    from polygraphy.backend.trt import CreateConfig, Profile

    options: dict[str, Any] = {"profiles": [], "profiling_verbosity": trt.ProfilingVerbosity.DETAILED}
    if profiles:
        options["profiles"] = [Profile().add(job.input, *shapes) for shapes in job.shapes]
    if job.workspace is not None:
        options["memory_pool_limits"] = {trt.MemoryPoolType.WORKSPACE: job.workspace}
    if job.optimization_level is not None:
        options["builder_optimization_level"] = job.optimization_level
    if job.version_compatible:
        options["version_compatible"] = True
    if job.hardware_compatible is not None:
        levels = trt.HardwareCompatibilityLevel
        options["hardware_compatibility_level"] = (
            levels.AMPERE_PLUS if job.hardware_compatible == "ampere+" else levels.SAME_COMPUTE_CAPABILITY
        )
    if job.strip_weights:
        options["strip_plan"] = True
    if job.kind == "tensorrt-rtx":
        capabilities = None if job.target is None else [_capability(job.target)]
        create = CreateConfigRTX(use_gpu=job.target is None, compute_capabilities=capabilities, **options)
    else:
        create = CreateConfig(**options)

    def make(builder: Any, network: Any) -> Any:
        config = create(builder, network)
        # TensorFloat-32 would round the operands of float32 units to 10 bits, and these units are float32 for accuracy.
        config.clear_flag(trt.BuilderFlag.TF32)
        if job.strip_weights:
            # The engine is refitted with the graph's own weights, so the builder may fold and reorder them as if they stayed.
            config.clear_flag(trt.BuilderFlag.REFIT)
            config.set_flag(trt.BuilderFlag.REFIT_IDENTICAL)
        if profiles and job.timing_cache is not None:
            _load_timing_cache(config, Path(job.timing_cache), notes)
        return config

    return make


def _load_timing_cache(config: Any, path: Path, notes: list[str]) -> None:
    if not path.is_file():
        return
    cache = config.create_timing_cache(path.read_bytes())
    if cache is None or not config.set_timing_cache(cache, False):
        notes.append(
            f"timing cache {path} is of another GPU or version, or is damaged: it is ignored and left as it is; "
            "pass another --timing-cache to keep one"
        )
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _capability(target: str) -> tuple[int, int]:
    digits = target.removeprefix("sm")
    return int(digits[:-1]), int(digits[-1])


def _layers(network: Any) -> dict[str, dict[str, int]]:
    """Count the layers of the parsed network by type and dtype, without constants."""
    counts: Counter[tuple[str, str]] = Counter()
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type.name != "CONSTANT" and layer.num_outputs:
            counts[layer.type.name, layer.get_output(0).dtype.name] += 1
    by_type: dict[str, dict[str, int]] = {}
    for (kind, dtype), count in sorted(counts.items()):
        by_type.setdefault(kind, {})[dtype] = count
    return by_type


def _inspect(trt: Any, job: BuildJob) -> bool:
    """Write every layer of the engine as JSON, if this machine has a GPU of the target to load it; returns whether it did."""
    from engines.device.gpu import find_gpu

    gpu = find_gpu()
    if gpu is None or (job.target is not None and job.target != gpu.target) or job.strip_weights:
        return False
    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(Path(job.plan).read_bytes())
    if engine is None:
        return False
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    Path(job.inspector).write_text(text, encoding="utf-8")
    return True


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Suppress the library's output on both streams, because it prints errors when it is tested for kernels that it lacks."""
    from polygraphy.logger import G_LOGGER

    sys.stdout.flush()
    sys.stderr.flush()
    originals = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        with G_LOGGER.verbosity(G_LOGGER.CRITICAL):
            yield
    finally:
        os.dup2(originals[0], 1)
        os.dup2(originals[1], 2)
        for descriptor in (*originals, nowhere):
            os.close(descriptor)


if __name__ == "__main__":
    sys.exit(serve(BuildJob, build))
