"""int8 and fp8 from the command line: the whole way with the demo model, the gate on the task, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from aotinductor_bundle import quick_compiler
from PIL import Image

import engines
from engines.manifest import Manifest, read_manifest
from exporter.__main__ import main
from exporter.aotinductor.job import compiler_problem
from exporter.demo.scenes import evaluation_set
from exporter.precision.precisions import PRECISIONS

HAS_RTX = find_spec("tensorrt_rtx") is not None


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("int8") / "bundle"
    assert main(["demo", "--int8", "--calibration-samples", "128", "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def manifest(bundle: Path) -> Manifest:
    return read_manifest(bundle)


@pytest.mark.long
def test_it_has_engines_for_cpu_and_gpu(bundle: Path, manifest: Manifest) -> None:
    assert manifest.precision == "int8"
    kinds = {(engine.kind, engine.target.device) for engine in manifest.engines}
    wanted = {("onnxruntime", "cpu")} | ({("tensorrt-rtx", "sm80")} if HAS_RTX else set())
    assert kinds == wanted
    assert not (bundle / "calibration.npy").exists()
    for tower in manifest.towers.values():
        found = tower.quantization
        assert found is not None
        assert found.share > 0.95
        assert not found.kept
        assert found.dtype == "int8"


@pytest.mark.long
def test_graphs_differ_in_what_is_not_quantized(bundle: Path, manifest: Manifest) -> None:
    float32, float16, int8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8
    if not HAS_RTX:
        pytest.skip("there is one graph only")
    for tower in ("image", "text"):
        scales = {}
        for path, dtype in (
            (bundle / f"{tower}.onnx", float16),
            (bundle / f"engines/onnxruntime/{tower}.onnx", float32),
        ):
            graph = onnx.load(path).graph
            types = {i.name: i.data_type for i in graph.initializer}
            pairs = [node for node in graph.node if node.op_type == "QuantizeLinear"]
            assert len(pairs) == manifest.towers[tower].quantization.layers  # type: ignore[index,union-attr]
            assert {types[node.input[1]] for node in pairs} == {dtype}
            assert {types[node.input[2]] for node in pairs} == {int8}
            values = {
                i.name: onnx.numpy_helper.to_array(i, str(path.parent)) for i in graph.initializer if i.dims == []
            }
            scales[dtype] = [float(values[node.input[1]]) for node in pairs]
        assert scales[float16] == scales[float32], "one set of scales, exact in both"


@pytest.mark.long
def test_the_task_was_measured(manifest: Manifest) -> None:
    (row,) = manifest.accuracy
    assert (row.engine, row.dataset, row.samples, row.classes) == ("onnxruntime", "demo scenes", 2000, 54)
    assert row.passed
    assert row.eager["top1"].value > 0.9
    change = row.change["top1"]
    assert change.value == pytest.approx(row.figures["top1"].value - row.eager["top1"].value)
    assert change.value >= -PRECISIONS["int8"].accuracy_loss
    assert change.low <= change.value <= change.high
    assert set(row.change) == {"top1", "image_to_text_recall_1", "text_to_image_recall_1"}


@pytest.mark.long
def test_it_serves(bundle: Path) -> None:
    with engines.load(bundle) as clip:
        images = evaluation_set(4).images
        alone = np.concatenate([clip.encode_image([image]) for image in images])
        np.testing.assert_allclose(clip.encode_image(images), alone, atol=2e-6)


@pytest.mark.long
def test_inspect_and_verify(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from engines.__main__ import main as command

    assert command(["verify", str(bundle)]) == 0
    assert command(["inspect", str(bundle)]) == 0
    shown = capsys.readouterr().out
    assert "int8" in shown
    assert "demo scenes" in shown


# Both towers at once also go through the gate on the task, half a minute.
ONE_TOWER = ["image", pytest.param("image,text", marks=pytest.mark.slow)]


@pytest.mark.long
@pytest.mark.parametrize("towers", ONE_TOWER)
def test_the_same_command_gives_the_same_weights_and_scales(bundle: Path, tmp_path: Path, towers: str) -> None:
    out = tmp_path / "again"
    arguments = ["demo", "--int8", "--calibration-samples", "128", "--engine", "onnxruntime", "--towers", towers]
    assert main([*arguments, "--out", str(out)]) == 0
    before = bundle / "engines/onnxruntime" if HAS_RTX else bundle
    for tower in towers.split(","):
        _same_values(before / f"{tower}.onnx", out / f"{tower}.onnx")


def _same_values(*paths: Path) -> None:
    graphs = [onnx.load(path).graph for path in paths]
    values = [
        {i.name: onnx.numpy_helper.to_array(i).tobytes() for i in graph.initializer if i.data_type in (1, 3)}
        for graph in graphs
    ]
    assert values[0] == values[1]


@pytest.mark.skipif(not HAS_RTX, reason="TensorRT-RTX is not installed")
@pytest.mark.long
@pytest.mark.parametrize("towers", ONE_TOWER)
def test_fp8_builds_for_sm89(tmp_path: Path, towers: str, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "fp8"
    arguments = ["demo", "--fp8", "--towers", towers, "--calibration-samples", "128", "--out", str(out)]
    assert main(arguments) == 0
    found = read_manifest(out)
    assert {(engine.kind, engine.target.device) for engine in found.engines} == {("tensorrt-rtx", "sm89")}
    types = {i.data_type for i in onnx.load(out / "image.onnx").graph.initializer}
    assert onnx.TensorProto.FLOAT8E4M3FN in types
    build = next(engine.build for engine in found.engines if engine.tower == "image")
    assert build is not None
    assert build.layers["QUANTIZE"] == {"FP8": found.towers["image"].quantization.layers}  # type: ignore[union-attr]
    assert "was not measured" in capsys.readouterr().out


@pytest.mark.skipif(compiler_problem() is not None, reason="no C++ compiler")
@pytest.mark.long
@pytest.mark.parametrize("towers", ONE_TOWER)
def test_aotinductor_packages(tmp_path: Path, towers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "packages"
    monkeypatch.setenv("CXX", str(quick_compiler(tmp_path)))
    arguments = ["--calibration-samples", "128", "--engine", "aotinductor", "--target", "cpu", "--towers", towers]
    assert main(["demo", "--int8", *arguments, "--out", str(out)]) == 0
    found = read_manifest(out)
    assert {(engine.kind, engine.target.device) for engine in found.engines} == {("aotinductor", "cpu")}
    assert all(row.passed for row in (*found.parity, *found.accuracy))
    assert found.parity[-1].engine_ran
    assert set(found.parity[-1].towers) == set(towers.split(","))
    with engines.load(out) as clip:
        assert clip.encode_image([Image.new("RGB", (64, 64), "red")]).shape == (1, 64)
        if "text" in towers:
            assert clip.encode_text(["a red circle"]).shape == (1, 64)


def class_folder(root: Path, count: int) -> Path:
    scenes = evaluation_set(count)
    for i, (image, label) in enumerate(zip(scenes.images, scenes.labels, strict=True)):
        place = root / scenes.captions[label].replace(" ", "_")
        place.mkdir(parents=True, exist_ok=True)
        image.save(place / f"{i}.png")
    return root


def test_an_image_tower_alone(tmp_path: Path) -> None:
    """For the CPU, without the demo model's own task, which needs both towers."""
    out = tmp_path / "image"
    arguments = [
        "--calibration-samples",
        "128",
        "--engine",
        "onnxruntime",
        "--towers",
        "image",
        "--parity-samples",
        "16",
    ]
    assert main(["demo", "--int8", *arguments, "--out", str(out)]) == 0
    found = read_manifest(out)
    quantization = found.towers["image"].quantization
    assert quantization is not None
    assert quantization.share > 0.95
    assert (quantization.dtype, quantization.kept) == ("int8", {})
    assert not found.accuracy
    assert all(row.passed and row.engine_ran for row in found.parity if row.engine != "simulation")
    nodes = Counter(node.op_type for node in onnx.load(out / "image.onnx").graph.node)
    assert nodes["QuantizeLinear"] == quantization.layers
    with engines.load(out) as clip:
        assert clip.encode_image([Image.new("RGB", (64, 64), "red")]).shape == (1, 64)


def test_evaluate_a_class_folder(tmp_path: Path) -> None:
    data, out = class_folder(tmp_path / "data", 60), tmp_path / "bundle"
    assert main(["demo", "--evaluate", str(data), "--parity-samples", "16", "--out", str(out)]) == 0
    (row,) = read_manifest(out).accuracy
    assert (row.dataset, row.samples) == ("data", 60)
    assert row.figures["top1"].value == row.eager["top1"].value


def test_a_task_that_loses_too_much_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine answers for turned pictures: embeddings of the gate's own inputs are right, the task is not."""
    from exporter.gate.encoders import EngineEncoders

    encode = EngineEncoders.encode_pictures
    monkeypatch.setattr(
        EngineEncoders, "encode_pictures", lambda self, pictures, pixels: encode(self, pictures, 255 - pixels)
    )
    data, out = class_folder(tmp_path / "data", 60), tmp_path / "bundle"
    arguments = ["demo", "--evaluate", str(data), "--parity-samples", "16", "--out", str(out)]
    assert main(arguments) == 3
    assert "points of top1 on data" in capsys.readouterr().err
    assert not out.exists()
    assert main([*arguments, "--allow-accuracy-loss"]) == 0
    assert "FAILED the gate" in capsys.readouterr().out
    (row,) = read_manifest(out).accuracy
    assert not row.passed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--fp8", "--engine", "tensorrt-rtx", "--target", "sm80"], "fp8 needs sm89 or newer"),
        (["--fp8", "--engine", "onnxruntime"], "engine onnxruntime has no fp8 kernels"),
        (["--fp8", "--engine", "openvino"], "engine openvino has no fp8 kernels"),
        (["--int8", "--calibration-samples", "5"], "at least 128"),
        (["--int8", "--engine", "aotinductor", "--kernels", "triton"], "cannot hold this project's Triton kernels"),
        (["--fp8", "--engine", "aotinductor"], "no fp8 packages for the CPU"),
        (["--fp16", "--calibration", "."], "--calibration is for --int8 and --fp8"),
        (["--evaluate", "/nowhere"], "is not there"),
        (["--towers", "image", "--evaluate", "."], "needs both towers"),
    ],
)
def test_what_does_not_go_together(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["demo", *arguments, "--out", str(out)]) == 1
    assert words in capsys.readouterr().err
    assert not out.exists()


def test_a_dataset_of_one_class_or_without_pictures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = tmp_path / "one"
    (one / "a").mkdir(parents=True)
    Image.new("RGB", (9, 9)).save(one / "a" / "x.png")
    assert main(["demo", "--evaluate", str(one), "--out", str(tmp_path / "x")]) == 1
    assert "only one class" in capsys.readouterr().err
    (one / "b").mkdir()
    assert main(["demo", "--evaluate", str(one), "--out", str(tmp_path / "x")]) == 1
    assert "class folder" in capsys.readouterr().err


def test_random_weights_have_no_accuracy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = class_folder(tmp_path / "data", 4)
    arguments = ["ViT-B-32", "--pretrained", "none", "--evaluate", str(data), "--out", str(tmp_path / "x")]
    assert main(arguments) == 1
    assert "the weights are random" in capsys.readouterr().err


@pytest.mark.long
def test_json_has_every_layers_range(bundle: Path) -> None:
    report = json.loads((bundle / "report.json").read_text())
    layers = report["towers"]["image"]["quantization"]["layers"]
    assert all(entry["limit"] > 0 for entry in layers.values())
    assert {entry["chosen_by"] for entry in layers.values()} > {"max"}
