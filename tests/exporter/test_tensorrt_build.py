"""exporter.tensorrt: every family and precision parses, is typed and builds, by TensorRT-RTX on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from shallow import FAMILIES, register

from engines.device.gpu import find_gpu
from engines.manifest import Profile, Range, TextLength, Tower
from exporter.errors import ExportError
from exporter.graphs.onnx_graph import OnnxGraph, example_input, export_graph
from exporter.precision.precisions import PRECISIONS, PrecisionPlan, apply_plan
from exporter.source.loading import load_source
from exporter.tensorrt import worker
from exporter.tensorrt.job import BuildJob, BuildResult, run_job
from exporter.tensorrt.profiles import input_shapes
from exporter.towers.modules import image_tower, text_tower

pytest.importorskip("tensorrt_rtx")

LENGTH = TextLength(keep="end", extra=0, min=2, max=77)
SMALL = Profile(batch=Range(min=1, opt=4, max=16))
# Slow because they are large: what each adds to the others is a width, a head size or a vocabulary.
LARGE = {"ViT-H-14", "ViT-g-14", "RN50x4", "convnext_large_d", "EVA01-g-14", "EVA02-E-14", "xlm-roberta-base-ViT-B-32"}
EACH_FAMILY = [pytest.param(name, marks=pytest.mark.slow) if name in LARGE else name for name in FAMILIES]
OTHER_PRECISIONS = ("ViT-B-32", "RN50", "EVA02-B-16", "convnext_base_w", "coca_ViT-B-32", "roberta-ViT-B-32")


def export_half(architecture: str, precision: str, folder: Path) -> dict[str, OnnxGraph]:
    """Both towers of a shallow model as graphs."""
    source = load_source(register(architecture, folder), "none", with_tokenizer=False)
    model: Any = source.model
    dtype = PRECISIONS[precision].dtype
    graphs = {}
    for name, tower in (("image", image_tower(model, source.preprocess)), ("text", text_tower(model))):
        if dtype != torch.float32:
            apply_plan(tower, PrecisionPlan(dtype, dtype))
        example = example_input(tower, source.preprocess.size, 9)
        graphs[name] = export_graph(tower, example, folder / f"{name}.onnx", LENGTH if name == "text" else None)
    return graphs


def job_for(graph: OnnxGraph, target: str = "sm80", **options: Any) -> BuildJob:
    length = Range(min=3, opt=16, max=77) if "L" in graph.input.shape else None
    tower = Tower(graph=graph.path.name, input=graph.input, output=graph.output)
    profile = Profile(batch=SMALL.batch, length=length)
    return BuildJob(
        kind="tensorrt-rtx",
        graph=str(graph.path),
        plan=str(graph.path.with_suffix(".plan")),
        inspector=str(graph.path.with_suffix(".json")),
        target=target,
        input=graph.input.name,
        shapes=(input_shapes(tower, profile),),
        **options,
    )


def built(graph: OnnxGraph, result: BuildResult) -> None:
    plan = graph.path.with_suffix(".plan")
    assert plan.stat().st_size > 0.9 * sum(f.stat().st_size for f in (Path(f"{graph.path}.data"),))
    assert result.build.fused_attention + result.build.decomposed_attention == graph.operators.get("Attention", 0)
    assert result.build.seconds > 0
    assert result.build.peak_memory_bytes > plan.stat().st_size


@pytest.mark.parametrize("architecture", EACH_FAMILY)
def test_every_family_builds_in_fp16(architecture: str, tmp_path: Path) -> None:
    for name, graph in export_half(architecture, "fp16", tmp_path).items():
        result = run_job(job_for(graph))
        built(graph, result)
        layers = result.build.layers
        # LayerNormalization stays one operation: decomposed, its squares overflow float16.
        assert ("NORMALIZATION" in layers) == (graph.operators.get("LayerNormalization", 0) > 0)
        assert "HALF" in layers["MATRIX_MULTIPLY"]
        assert "FLOAT" not in layers["MATRIX_MULTIPLY"]
        if architecture.startswith(("ViT", "EVA02-B")) or (name == "text" and "roberta" not in architecture):
            assert result.build.decomposed_attention == 0, "no fused kernel for a head size that has one"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("architecture", OTHER_PRECISIONS)
def test_other_precisions_build(architecture: str, precision: str, tmp_path: Path) -> None:
    for graph in export_half(architecture, precision, tmp_path).values():
        result = run_job(job_for(graph))
        built(graph, result)
        if precision == "fp32":
            # No kernel but for a single query (the last block of towers that read one token): unmarked, the build fails.
            assert result.build.fused_attention <= 1
            assert result.build.decomposed_attention >= graph.operators.get("Attention", 0) - 1


def test_units_kept_in_float32_build_beside_half_ones(tmp_path: Path) -> None:
    source = load_source(register("ViT-B-32", tmp_path), "none", with_tokenizer=False)
    tower = image_tower(source.model, source.preprocess)
    plan = PrecisionPlan(torch.float16, torch.float32, {"stream": "a test", "blocks.0.attention": "a test"})
    apply_plan(tower, plan)
    graph = export_graph(tower, example_input(tower, source.preprocess.size, 0), tmp_path / "image.onnx")
    result = run_job(job_for(graph))
    assert (result.build.fused_attention, result.build.decomposed_attention) == (1, 1)
    assert set(result.build.layers["MATRIX_MULTIPLY"]) == {"FLOAT", "HALF"}


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> OnnxGraph:
    return export_half("ViT-B-32", "bf16", tmp_path_factory.mktemp("errors"))["text"]


@pytest.mark.parametrize("target", ["sm80", "sm86", "sm89", "sm120", "sm121"])
def test_every_target_with_two_profiles_and_options(target: str, graph: OnnxGraph) -> None:
    job = job_for(graph, target, workspace=2 << 30, optimization_level=1)
    low, best, high = job.shapes[0]
    larger = tuple((size[0] + 16, size[1]) for size in (low, best, high))
    result = run_job(msgspec.structs.replace(job, shapes=(job.shapes[0], larger)))
    built(graph, result)
    assert result.build.options == {"workspace": 2 << 30, "optimization_level": 1}
    assert not result.inspected or find_gpu() is not None


class TestErrors:
    def test_a_target_without_the_dtype(self, graph: OnnxGraph) -> None:
        with pytest.raises(ExportError, match=r"cannot build text\.onnx for sm75: .*sm75.*datatypes: b16"):
            run_job(job_for(graph, "sm75"))

    def test_a_damaged_graph(self, graph: OnnxGraph, tmp_path: Path) -> None:
        (tmp_path / "text.onnx").write_bytes(graph.path.read_bytes()[:1000])
        job = job_for(graph)
        broken = msgspec.structs.replace(job, graph=str(tmp_path / "text.onnx"))
        with pytest.raises(ExportError, match=r"cannot build text\.onnx for sm80: ") as caught:
            run_job(broken)
        assert "\n" not in str(caught.value)

    def test_weights_cannot_be_stripped_without_a_gpu(self, graph: OnnxGraph) -> None:
        """Why the command line refuses it: 1.7.1 compiles refittable kernels with the driver."""
        from engines.device.gpu import gpu_missing

        if gpu_missing() is None:
            pytest.skip("there is a GPU")
        with pytest.raises(ExportError, match="CUDA_SUCCESS"):
            run_job(job_for(graph, strip_weights=True))


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
