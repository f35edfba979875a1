"""exporter.gate.float64_gate: a model whose own float32 is rough passes, a wrong graph of it does not, and verify knows both."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rough_model import register_tiny, rough_text_tower, save_tiny

import exporter
import exporter.graphs.onnx_graph
from engines.__main__ import main
from engines.files.checksums import file_sha256
from engines.manifest import TowerName, read_manifest
from engines.verification.embeddings import verify_bundle
from exporter.errors import ParityGateError
from exporter.gate.float64_gate import Float64Gate
from exporter.gate.judging import judge
from exporter.graphs.passes import run_passes
from exporter.precision.precisions import PRECISIONS
from exporter.reference.eager import Reference
from exporter.reference.float64_eager import Float64Eager, Measured, disturbed
from exporter.source.loading import load_source

CONSTANT, FIRST = 3e4, 9
SAMPLES = 24  # pictures, and twice as many captions: enough for a wrong graph to show


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Name and checkpoint of a model whose text tower is rough in float32."""
    folder = tmp_path_factory.mktemp("rough")
    name = register_tiny(folder)
    yield name, save_tiny(folder / "rough.safetensors", lambda weights: rough_text_tower(weights, CONSTANT, FIRST))
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def rough_bundle(model: tuple[str, Path]) -> Path:
    """An export of both towers. Read only."""
    return exporter.export(model[0], pretrained=model[1], out=model[1].parent / "bundle")


@pytest.fixture
def rough_copy(rough_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(rough_bundle, tmp_path / "copy"))


class TestRoughModel:
    def test_passes_and_the_manifest_says_so(self, rough_bundle: Path) -> None:
        row = read_manifest(rough_bundle).parity[0]
        assert row.passed
        assert not row.accuracy_loss_allowed
        assert row.towers["text"].min_cosine < row.limits.min_cosine, "the model is not rough enough for this test"
        assert set(row.float64) == {"text"}
        check = row.float64["text"]
        assert 0 < check.samples <= check.failing
        assert check.ratio <= check.limit == 4
        assert check.eager > 1e-3

    def test_verify_passes(self, rough_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["verify", str(rough_bundle)]) == 0
        said = capsys.readouterr().out
        assert "verified: files and embeddings are right" in said
        assert "text: " in said
        assert "judged by float64" in said
        assert main(["verify", str(rough_bundle), "--json"]) == 0
        row = json.loads(capsys.readouterr().out)["parity"][0]
        assert row["float64"]["text"]["ratio"] <= 4

    def test_inspect_shows_it(self, rough_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["inspect", str(rough_bundle)]) == 0
        said = capsys.readouterr().out
        assert "passed (float64)" in said
        assert "judged by float64" in said

    def test_reference_keeps_rough_inputs_apart(self, rough_bundle: Path) -> None:
        with np.load(rough_bundle / "reference.npz") as arrays:
            assert "image_rough_pixels" not in arrays
            assert (
                len(arrays["text_rough_ids"]) == len(arrays["text_rough_embeds"]) == len(arrays["text_rough_eager"]) > 0
            )
            assert len(arrays["text_spread"]) == len(arrays["text_ids"]) > 0
            np.testing.assert_allclose(np.linalg.norm(arrays["text_rough_embeds"], axis=1), 1, atol=1e-6)

    @pytest.mark.parametrize("scale", [1.2, pytest.param(0.8, marks=pytest.mark.slow)])
    def test_a_damaged_engine_fails(self, scale: float, rough_copy: Path) -> None:
        """A row of the last projection is off: of the text tower, then of the image tower."""
        for name in ("text", "image"):
            assert verify_bundle(rough_copy)[0].passed
            change_projection(rough_copy, name, scale)
            row = verify_bundle(rough_copy)[0]
            assert not row.passed
            if name == "text":
                assert row.float64["text"].ratio > 4
                change_projection(rough_copy, name, 1 / scale)

    def test_a_small_damage_shows_on_the_inputs_that_are_not_rough(self, rough_copy: Path) -> None:
        change_projection(rough_copy, "text", 0.98)
        assert not verify_bundle(rough_copy)[0].passed

    @pytest.mark.parametrize(
        ("key", "change"),
        [
            ("text_rough_eager", lambda rows: rows[:-1]),
            ("text_rough_eager", lambda rows: rows * np.nan),
            ("text_spread", lambda rows: rows[:-1]),
            ("text_spread", lambda rows: rows * np.inf),
            ("text_rough_embeds", lambda rows: None),
        ],
    )
    def test_damaged_reference(self, key: str, change: Callable[[Any], Any], rough_copy: Path) -> None:
        path = rough_copy / "reference.npz"
        with np.load(path) as arrays:
            kept = dict(arrays)
        value = change(kept.pop(key))
        np.savez_compressed(path, **kept, **({} if value is None else {key: value}))
        accept(rough_copy, "reference.npz")
        assert main(["verify", str(rough_copy)]) == 1


def test_inputs_that_are_all_rough_are_verified_too(rough_copy: Path) -> None:
    """Where no input is left for the limits, the rough ones decide alone."""
    path = rough_copy / "reference.npz"
    with np.load(path) as arrays:
        kept = dict(arrays)
    for key in ("text_ids", "text_embeds", "text_spread"):
        kept[key] = kept[key][:0]
    np.savez_compressed(path, **kept)
    accept(rough_copy, "reference.npz")
    row = verify_bundle(rough_copy)[0]
    assert row.passed
    assert row.top1_agreement is None
    change_projection(rough_copy, "text", 0.8)
    assert not verify_bundle(rough_copy)[0].passed
    for key in [key for key in kept if key.startswith("text_rough")]:
        del kept[key]
    np.savez_compressed(path, **kept)
    accept(rough_copy, "reference.npz")
    assert main(["verify", str(rough_copy)]) == 1


class TestWrongGraphOfARoughModel:
    """Negative controls: what is subtly wrong stays refused, though float32 excuses much on some inputs."""

    def refused(self, model: tuple[str, Path], out: Path, **options: Any) -> str:
        with pytest.raises(ParityGateError) as error:
            exporter.export(model[0], pretrained=model[1], towers=("text",), out=out, parity_samples=SAMPLES, **options)
        assert not out.exists()
        return str(error.value)

    def test_quick_gelu_for_gelu(
        self, model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from open_clip.transformer import QuickGELU

        import exporter.tower_export as module

        build = module.text_tower

        def wrong(source: Any) -> Any:
            tower = build(source)
            for part in tower.modules():
                for name, child in list(part.named_children()):
                    if isinstance(child, torch.nn.GELU):
                        setattr(part, name, QuickGELU())
            return tower

        monkeypatch.setattr(module, "text_tower", wrong)
        said = self.refused(model, tmp_path / "b")
        assert "the engine or its graph is wrong, not the checkpoint and not the precision" in said
        assert "wider precision" not in said

    @pytest.mark.slow  # test_allowed_loss_records_what_float64_said has the same graph, which does not pass there
    def test_epsilon(self, model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def wrong(graph: ir.Model) -> None:
            nodes = [node for node in graph.graph if node.op_type == "LayerNormalization"]
            assert nodes
            for node in nodes:
                node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)

        change_graph(monkeypatch, wrong)
        assert "is up to" in self.refused(model, tmp_path / "b")

    def test_the_blocks_matrices_in_bfloat16(
        self, model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(graph: ir.Model) -> None:
            matrices = [
                value for name, value in graph.graph.initializers.items() if name and ".body." in name and ".T" in name
            ]
            assert len(matrices) == 4
            for value in matrices:
                assert value.const_value is not None
                rounded = torch.from_numpy(value.const_value.numpy().copy()).bfloat16().float().numpy()
                value.const_value = ir.Tensor(rounded, name=value.name)

        change_graph(monkeypatch, wrong)
        assert "is up to" in self.refused(model, tmp_path / "b")

    @pytest.mark.parametrize("allowed", [True, pytest.param(False, marks=pytest.mark.slow)])
    def test_not_a_number(
        self, allowed: bool, model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(graph: ir.Model) -> None:
            value = graph.graph.initializers["encoder.head.projection.weight"]
            assert value.const_value is not None
            value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(np.nan), name=value.name)

        change_graph(monkeypatch, wrong)
        said = self.refused(model, tmp_path / "b", allow_accuracy_loss=allowed)
        assert "it gives NaN or infinity, which eager does not" in said
        assert "--allow-accuracy-loss" not in said

    def test_allowed_loss_records_what_float64_said(
        self, model: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def wrong(graph: ir.Model) -> None:
            for node in graph.graph:
                if node.op_type == "LayerNormalization":
                    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)

        change_graph(monkeypatch, wrong)
        allowed = {"allow_accuracy_loss": True, "parity_samples": SAMPLES}
        path = exporter.export(model[0], pretrained=model[1], towers=("text",), out=tmp_path / "b", **allowed)
        row = read_manifest(path).parity[0]
        assert row.accuracy_loss_allowed
        assert not row.passed
        assert row.float64["text"].ratio > row.float64["text"].limit


def test_disturbed_weights_come_back_bit_by_bit() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(300, 70), torch.nn.LayerNorm(70))
    module.register_parameter("scale", torch.nn.Parameter(torch.tensor(2.5)))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    with disturbed(module, 3):
        changed = torch.cat([(tensor != before[name]).reshape(-1) for name, tensor in module.state_dict().items()])
        assert 1 / 14 < changed.double().mean() < 1 / 10
        first, was = module[0].weight, before["0.weight"]
        assert float(((first - was) / was).abs().max()) <= 2**-23
    for name, tensor in module.state_dict().items():
        assert torch.equal(tensor.view(torch.int32), before[name].view(torch.int32))


class Measurements:
    """What `Float64Eager` measures, made up: float32 is 0.03 away on 40 of 64 inputs, 1e-7 on the others."""

    def __init__(self) -> None:
        draw = np.random.default_rng(0)
        self.distances = np.where(np.arange(64) < 40, 0.03, 1e-7)
        self.all = draw.normal(size=(64, 32))
        self.all /= np.linalg.norm(self.all, axis=1, keepdims=True)
        self.embeds = self.moved(self.distances, draw)
        self.references: dict[TowerName, Reference] = {"image": Reference(self.embeds, self.embeds)}
        self.measured: dict[TowerName, dict[int, Measured]] = {"image": {}}

    def moved(self, distances: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """Embeddings so far from the exact ones."""
        aside = draw.normal(size=self.all.shape)
        aside -= (aside * self.all).sum(axis=1, keepdims=True) * self.all
        aside /= np.linalg.norm(aside, axis=1, keepdims=True)
        return (self.all + aside * distances[:, None]).astype(np.float32)

    def loaded(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def measure(self, tower: TowerName, indices: Sequence[int]) -> None:
        self.measured[tower] |= {i: Measured(self.all[i], self.distances[i]) for i in indices}

    def exact(self, tower: TowerName, indices: Sequence[int]) -> np.ndarray:
        return np.stack([self.measured[tower][i].exact for i in indices])

    def eager(self, tower: TowerName, indices: Sequence[int]) -> np.ndarray:
        return np.array([self.measured[tower][i].eager for i in indices])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    wrong=st.sets(st.integers(40, 63), max_size=24),
    distance=st.sampled_from([0.032, 0.06, 0.2]),
    seed=st.integers(0, 99),
)
def test_every_input_that_fails_is_measured(wrong: set[int], distance: float, seed: int) -> None:
    """An engine that is wrong where eager is exact does not hide behind inputs where eager is rough."""
    eager = Measurements()
    engine = eager.distances.copy()
    engine[sorted(wrong)] = distance
    embeds: dict[TowerName, np.ndarray] = {"image": eager.moved(engine, np.random.default_rng(seed))}
    row = judge("onnxruntime", "x", eager.references, embeds, PRECISIONS["fp32"].limits)
    assert not row.passed
    assert Float64Gate(cast(Float64Eager, eager)).settle(row, embeds).passed == (not wrong)


@pytest.mark.slow
def test_mobileclip2_s0(tmp_path: Path) -> None:
    """The model of the report: a minute on one core."""
    path = exporter.export(
        "MobileCLIP2-S0", pretrained="none", engines=("onnxruntime",), towers=("image",), out=tmp_path / "b"
    )
    row = read_manifest(path).parity[0]
    assert row.passed
    assert row.float64["image"].ratio <= 4
    assert verify_bundle(path)[0].passed


def change_graph(monkeypatch: pytest.MonkeyPatch, change: Callable[[ir.Model], None]) -> None:
    """Graphs of exports are changed as a wrong rewrite would."""

    def run(graph: ir.Model, opset: int) -> dict[str, int]:
        counts = run_passes(graph, opset)
        change(graph)
        return counts

    monkeypatch.setattr(exporter.graphs.onnx_graph, "run_passes", run)


def change_projection(bundle: Path, tower: str, scale: float) -> None:
    """Scale one row of the last matrix of a tower's graph."""
    path = bundle / f"{tower}.onnx"
    graph = onnx.load(path)
    value = next(item for item in graph.graph.initializer if item.name.endswith("head.projection.weight"))
    array = onnx.numpy_helper.to_array(value).copy()
    array[0] *= scale
    value.CopyFrom(onnx.numpy_helper.from_array(array, value.name))
    (bundle / f"{tower}.onnx.data").unlink()
    onnx.save(graph, path, save_as_external_data=True, location=f"{tower}.onnx.data", size_threshold=1024)
    accept(bundle, f"{tower}.onnx")
    accept(bundle, f"{tower}.onnx.data")


def accept(bundle: Path, name: str) -> None:
    """Write a changed file's size and checksum into the manifest."""
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    data["files"][name] = {"bytes": (bundle / name).stat().st_size, "sha256": file_sha256(bundle / name)}
    path.write_text(json.dumps(data))


def test_eager_is_float64_all_the_way(tmp_path: Path) -> None:
    """Nothing computes in less once weights and inputs are float64."""
    from exporter.reference.float64_eager import _embed, _Float64Only

    model: Any = load_source(register_tiny(tmp_path), "none", with_tokenizer=False).model.double()
    with _Float64Only() as seen:
        _embed(model.encode_image, torch.zeros(1, 3, 32, 32, dtype=torch.float64))
        _embed(model.encode_text, torch.ones(1, 77, dtype=torch.int64))
    assert not seen.others
    with _Float64Only() as seen:
        _embed(lambda x: (x.float() + 1).double(), torch.zeros(1, 3, dtype=torch.float64))
    assert seen.others
