"""exporter.tensorrt: every family and precision parses, is typed and builds, by TensorRT-RTX on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from shallow import FAMILIES
from shallow_towers import shallow_graph, shallow_source, shallow_tower

from engines.device.gpu import find_gpu
from engines.manifest import Profile, Range, Tower
from exporter.errors import ExportError
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.precision.precisions import PrecisionPlan, apply_plan
from exporter.tensorrt import worker
from exporter.tensorrt.job import BuildJob, BuildResult, run_job
from exporter.tensorrt.profiles import input_shapes

pytest.importorskip("tensorrt_rtx")

SMALL = Profile(batch=Range(min=1, opt=4, max=16))
# Towers that differ in more than numbers, and one with a head size of 104; what is slow adds widths, vocabularies and the text
# towers that are ViT-B-32's.
FP16 = (
    ("ViT-B-32", "text"),
    ("ViT-bigG-14", "image"),
    ("RN50", "image"),
    ("convnext_large_d", "image"),
    ("EVA02-B-16", "image"),
    ("coca_ViT-B-32", "image"),
    ("roberta-ViT-B-32", "text"),
)
# float32: attention of every kind, for all is decomposed. bfloat16: convolutions, rotations, padding masks.
FP32 = (
    ("ViT-B-32", "image"),
    ("ViT-B-32", "text"),
    ("RN50", "image"),
    ("EVA02-B-16", "image"),
    ("coca_ViT-B-32", "image"),
    ("roberta-ViT-B-32", "text"),
)
BF16 = (("RN50", "image"), ("EVA02-B-16", "image"), ("coca_ViT-B-32", "text"))
OTHERS = ("ViT-B-32", "RN50", "EVA02-B-16", "convnext_base_w", "coca_ViT-B-32", "roberta-ViT-B-32")
TOWERS = ("image", "text")
# Narrow towers, and all of the true width, which are slow. Of the narrow ones these are not long: causal attention, rotations,
# convolutions, and attention of a single query.
FAST = (
    ("ViT-B-32", "text", "fp16"),
    ("EVA02-B-16", "image", "fp16"),
    ("coca_ViT-B-32", "image", "fp32"),
    ("RN50", "image", "bf16"),
)


def _narrow(architecture: str, kind: str, precision: str, *more: str) -> Any:
    marks = [] if (architecture, kind, precision) in FAST else [pytest.mark.long]
    return pytest.param(architecture, kind, *more, True, marks=marks, id="-".join((architecture, kind, *more)))


def _whole(architecture: str, kind: str, *more: str) -> Any:
    name = "-".join((architecture, kind, *more, "whole-width"))
    return pytest.param(architecture, kind, *more, False, marks=pytest.mark.slow, id=name)


HALF_CASES = [_narrow(*tower, "fp16") for tower in FP16]
HALF_CASES += [_whole(name, kind) for name in FAMILIES for kind in TOWERS]
OTHER_CASES = [_narrow(*tower, p, p) for p, towers in (("fp32", FP32), ("bf16", BF16)) for tower in towers]
OTHER_CASES += [_whole(name, kind, p) for name in OTHERS for kind in TOWERS for p in ("fp32", "bf16")]


def job_for(graph: OnnxGraph, folder: Path, target: str = "sm80", **options: Any) -> BuildJob:
    length = Range(min=3, opt=16, max=77) if "L" in graph.input.shape else None
    tower = Tower(graph=graph.path.name, input=graph.input, output=graph.output)
    profile = Profile(batch=SMALL.batch, length=length)
    return BuildJob(
        kind="tensorrt-rtx",
        graph=str(graph.path),
        plan=str(folder / "engine.plan"),
        inspector=str(folder / "engine.json"),
        target=target,
        input=graph.input.name,
        shapes=(input_shapes(tower, profile),),
        **options,
    )


def built(graph: OnnxGraph, result: BuildResult, folder: Path) -> None:
    plan = folder / "engine.plan"
    assert plan.stat().st_size > 0.9 * Path(f"{graph.path}.data").stat().st_size
    assert result.build.fused_attention + result.build.decomposed_attention == graph.operators.get("Attention", 0)
    assert result.build.seconds > 0
    assert result.build.peak_memory_bytes > plan.stat().st_size


@pytest.mark.parametrize(("architecture", "kind", "narrow"), HALF_CASES)
def test_every_family_builds_in_fp16(architecture: str, kind: str, narrow: bool, tmp_path: Path) -> None:
    graph = shallow_graph(architecture, kind, tmp_path, "fp16", narrow)
    result = run_job(job_for(graph, tmp_path))
    built(graph, result, tmp_path)
    layers = result.build.layers
    # LayerNormalization stays one operation: decomposed, its squares overflow float16.
    assert ("NORMALIZATION" in layers) == (graph.operators.get("LayerNormalization", 0) > 0)
    assert "HALF" in layers["MATRIX_MULTIPLY"]
    assert "FLOAT" not in layers["MATRIX_MULTIPLY"]
    if architecture.startswith(("ViT", "EVA02-B")) or (kind == "text" and "roberta" not in architecture):
        assert result.build.decomposed_attention == 0, "no fused kernel for a head size that has one"


@pytest.mark.parametrize(("architecture", "kind", "precision", "narrow"), OTHER_CASES)
def test_other_precisions_build(architecture: str, kind: str, precision: str, narrow: bool, tmp_path: Path) -> None:
    graph = shallow_graph(architecture, kind, tmp_path, precision, narrow)
    result = run_job(job_for(graph, tmp_path))
    built(graph, result, tmp_path)
    if precision == "fp32":
        # No kernel but for a single query (the last block of towers that read one token): unmarked, the build fails.
        assert result.build.fused_attention <= 1
        assert result.build.decomposed_attention >= graph.operators.get("Attention", 0) - 1


def test_units_kept_in_float32_build_beside_half_ones(tmp_path: Path) -> None:
    source = shallow_source("ViT-B-32")
    tower = shallow_tower(source, "image")
    plan = PrecisionPlan(torch.float16, torch.float32, {"stream": "a test", "blocks.0.attention": "a test"})
    apply_plan(tower, plan)
    graph = export_graph(tower, example_input(tower, source.preprocess.size, 0), tmp_path / "image.onnx")
    result = run_job(job_for(graph, tmp_path))
    assert (result.build.fused_attention, result.build.decomposed_attention) == (1, 1)
    assert set(result.build.layers["MATRIX_MULTIPLY"]) == {"FLOAT", "HALF"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    """Of the true width, so that the engine's size is that of its weights."""
    return shallow_graph("ViT-B-32", "text", tmp_path_factory.mktemp("graph"), "bf16", narrow=False)


LONG_TARGETS = (pytest.param(target, marks=pytest.mark.long) for target in ("sm80", "sm86", "sm121"))


@pytest.mark.parametrize("target", ["sm89", "sm120", *LONG_TARGETS])
def test_every_target_with_two_profiles_and_options(target: str, graph: OnnxGraph, tmp_path: Path) -> None:
    job = job_for(graph, tmp_path, target, workspace=2 << 30, optimization_level=1)
    low, best, high = job.shapes[0]
    larger = tuple((size[0] + 16, size[1]) for size in (low, best, high))
    result = run_job(msgspec.structs.replace(job, shapes=(job.shapes[0], larger)))
    built(graph, result, tmp_path)
    assert result.build.options == {"workspace": 2 << 30, "optimization_level": 1}
    assert not result.inspected or find_gpu() is not None


class TestErrors:
    def test_a_target_without_the_dtype(self, graph: OnnxGraph, tmp_path: Path) -> None:
        with pytest.raises(ExportError, match=r"cannot build text\.onnx for sm75: .*sm75.*datatypes: b16"):
            run_job(job_for(graph, tmp_path, "sm75"))

    def test_a_damaged_graph(self, graph: OnnxGraph, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_bytes(graph.path.read_bytes()[:1000])
        job = job_for(graph, tmp_path)
        broken = msgspec.structs.replace(job, graph=str(tmp_path / "text.onnx"))
        with pytest.raises(ExportError, match=r"cannot build text\.onnx for sm80: ") as caught:
            run_job(broken)
        assert "\n" not in str(caught.value)

    def test_weights_cannot_be_stripped_without_a_gpu(self, graph: OnnxGraph, tmp_path: Path) -> None:
        """Why the command line refuses it: 1.7.1 compiles refittable kernels with the driver."""
        from engines.device.gpu import gpu_missing

        if gpu_missing() is None:
            pytest.skip("there is a GPU")
        with pytest.raises(ExportError, match="CUDA_SUCCESS"):
            run_job(job_for(graph, tmp_path, strip_weights=True))


class FakeConfig:
    """A builder configuration that takes timing caches of its own version."""

    def __init__(self) -> None:
        self.cache: bytes | None = None

    def create_timing_cache(self, data: bytes) -> bytes | None:
        return None if data == b"damaged" else data

    def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch
        if cache in (b"", b"good"):
            self.cache = cache
        return cache in (b"", b"good")


@pytest.mark.parametrize(
    ("content", "kept"), [(None, None), (b"good", b"good"), (b"other version", b""), (b"damaged", b"")]
)
def test_a_timing_cache_of_another_version_is_ignored_with_a_line(
    content: bytes | None, kept: bytes | None, tmp_path: Path
) -> None:
    """TensorRT-RTX keeps none, so this is about a stand-in for the full library's configuration."""
    path, config, notes = tmp_path / "x.timing", FakeConfig(), []
    if content is not None:
        path.write_bytes(content)
    worker._load_timing_cache(config, path, notes)
    assert config.cache == kept
    assert bool(notes) == (content in (b"other version", b"damaged"))
    assert content is None or path.read_bytes() == content
