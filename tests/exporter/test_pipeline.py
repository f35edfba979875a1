"""exporter.pipeline and its command line: a name in, a verified bundle out, and every way to fail."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shallow import VOCABULARY, register

import engines
import exporter
from engines.engine_kinds import KINDS
from engines.manifest import read_manifest
from exporter.__main__ import main
from exporter.errors import ExportError, ParityGateError
from exporter.pipeline import Options, run_export
from exporter.stages import Stages


def cli(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "exporter", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **options,
    )


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestExport:
    def test_bundle_is_whole(self, demo_bundle: Path) -> None:
        names = leftovers(demo_bundle)
        assert names == [
            "image.onnx",
            "image.onnx.data",
            "manifest.json",
            "reference.npz",
            "report.json",
            "text.onnx",
            "text.onnx.data",
            "tokenizer.json",
        ]
        manifest = read_manifest(demo_bundle)
        assert manifest.model.source == "demo"
        assert manifest.precision == "fp32"
        assert set(manifest.files) == set(names) - {"manifest.json"}
        assert all(row.passed for row in manifest.parity)
        assert manifest.parity[0].towers["image"].min_cosine >= 0.99999
        assert (demo_bundle / "reference.npz").stat().st_size <= 4_000_000

    def test_report_has_every_stage(self, demo_bundle: Path) -> None:
        report = json.loads((demo_bundle / "report.json").read_text())
        stages = [row["stage"] for row in report["stages"]]
        assert "export image tower" in stages
        assert "parity gate" in stages
        steps = [(row["step"], row.get("tower")) for row in report["stages"]]
        assert steps[:4] == [("load", None), ("data", None), ("reference", "image"), ("reference", "text")]
        assert steps[4:] == [("export", "image"), ("rule", "text"), ("export", "text"), ("gate", None)]
        assert all(row["seconds"] >= 0 and row["peak_memory_bytes"] > 0 for row in report["stages"])
        assert report["towers"]["text"]["operators"]["Attention"] > 0

    def test_serves(self, demo_bundle: Path) -> None:
        with engines.load(demo_bundle) as clip:
            embeds = clip.encode_text(["a red circle", "two blue squares on a white background"])
        np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1, atol=1e-5)

    @pytest.mark.parametrize(
        ("precision", "towers"),
        [("fp16", ("image", "text")), ("bf16", ("text",)), pytest.param("bf16", ("image",), marks=pytest.mark.long)],
    )
    def test_half_precisions(self, precision: str, towers: tuple[str, ...], tmp_path: Path) -> None:
        path = exporter.export("demo", precision=precision, towers=towers, out=tmp_path / "half", parity_samples=8)
        manifest = read_manifest(path)
        rows = {row.engine: row for row in manifest.parity}
        assert set(rows) == {"simulation", "onnxruntime"}
        assert all(row.passed for row in rows.values())
        if precision == "bf16":
            assert "widened" in rows["onnxruntime"].verified_with
        size = sum(file.stat().st_size for file in path.glob("*.data"))
        assert size < 9_000_000

    def test_one_tower_and_its_float32_input(self, normalized_image_bundle: Path) -> None:
        manifest = read_manifest(normalized_image_bundle)
        assert set(manifest.towers) == {"image"}
        assert manifest.towers["image"].input.dtype == "float32"
        assert manifest.tokenizer is None
        assert manifest.parity[0].top1_agreement is None

    def test_random_weights_are_marked(self, tmp_path: Path) -> None:
        name = register("RN50", tmp_path, narrow=True)
        path = exporter.export(
            name, pretrained="none", precision="fp16", towers=("image",), out=tmp_path / "b", parity_samples=4
        )
        assert read_manifest(path).model.weights == "random"

    def test_hugging_face_text_tower(self, tmp_path: Path) -> None:
        name = register("roberta-ViT-B-32", tmp_path)
        path = exporter.export(name, pretrained="none", towers=("text",), out=tmp_path / "b", parity_samples=4)
        manifest = read_manifest(path)
        assert manifest.towers["text"].length is not None
        assert manifest.towers["text"].length.keep == "padding"
        with engines.load(path) as clip:
            assert clip.encode_text(["a photo of a dog", "un chien dans la neige"]).shape == (2, 512)

    def test_coca(self, tmp_path: Path) -> None:
        """Both towers come out of one model, one after the other."""
        name = register("coca_ViT-B-32", tmp_path, narrow=True, vocabulary=VOCABULARY)
        path = exporter.export(name, pretrained="none", out=tmp_path / "b", parity_samples=4)
        manifest = read_manifest(path)
        assert manifest.parity[0].top1_agreement == 1.0
        length = manifest.towers["text"].length
        assert length is not None
        assert (length.keep, length.extra) == ("padding", 1)


class TestGate:
    def test_failure_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        damage_graphs(monkeypatch)
        with pytest.raises(ParityGateError, match=r"min cosine .*--allow-accuracy-loss"):
            exporter.export("demo", out=tmp_path / "b", parity_samples=4)
        assert leftovers(tmp_path) == []

    def test_failure_keeps_the_old_bundle(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        out = exporter.export("demo", towers=("image",), out=tmp_path / "b", parity_samples=4)
        before = (out / "manifest.json").read_bytes()
        damage_graphs(monkeypatch)
        with pytest.raises(ParityGateError):
            exporter.export("demo", towers=("image",), out=out, force=True, parity_samples=4)
        assert (out / "manifest.json").read_bytes() == before
        assert leftovers(tmp_path) == ["b"]

    def test_exit_code_is_3(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        damage_graphs(monkeypatch)
        assert main(["demo", "--towers", "image", "--out", str(tmp_path / "b"), "--parity-samples", "4"]) == 3
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: the fp32 engine onnxruntime")

    def test_an_engine_that_does_not_run_costs_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It was built; that it cannot be loaded shows in the gate only, such as nodes without a kernel on a GPU."""
        from engines.errors import EngineUnavailableError

        pytest.importorskip("openvino")

        def refuse(*args: object, **options: object) -> object:
            raise EngineUnavailableError("2 nodes have no kernel here")

        monkeypatch.setattr("engines.runtimes.openvino.open_tower", refuse)
        arguments = ["demo", "--towers", "text", "--parity-samples", "4", "--engine", "openvino"]
        assert main([*arguments, "--engine", "onnxruntime", "--out", str(tmp_path / "b")]) == 1
        said = capsys.readouterr().err.splitlines()
        why = "openvino was built and does not run here: 2 nodes have no kernel here"
        assert f"left out: {why}" in said
        assert said[-1] == f"error: {tmp_path / 'b'} was written without openvino ({why})"
        assert {engine.kind for engine in read_manifest(tmp_path / "b").engines} == {"onnxruntime"}
        assert main([*arguments, "--out", str(tmp_path / "c")]) == 1
        assert capsys.readouterr().err.splitlines()[-1] == f"error: {why}"
        assert leftovers(tmp_path) == ["b"]

    def test_allowed_loss_is_recorded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        damage_graphs(monkeypatch)
        path = exporter.export(
            "demo", towers=("image",), out=tmp_path / "b", parity_samples=4, allow_accuracy_loss=True
        )
        row = read_manifest(path).parity[0]
        assert not row.passed
        assert row.accuracy_loss_allowed


def damage_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that breaks graphs the way a bad rewrite would: one weight of the head is negated."""
    import onnx_ir as ir

    import exporter.graphs.onnx_graph
    from exporter.graphs.passes import run_passes

    def run(model: ir.Model, opset: int) -> dict[str, int]:
        counts = run_passes(model, opset)
        value = next(v for v in model.graph.initializers.values() if v.name and "head.projection" in v.name)
        assert value.const_value is not None
        array = value.const_value.numpy().copy()
        array[..., : array.shape[-1] // 2] *= -1
        value.const_value = ir.Tensor(array, name=value.name)
        return counts

    monkeypatch.setattr(exporter.graphs.onnx_graph, "run_passes", run)


class TestCommandLine:
    def test_help_is_quick_and_needs_no_torch(self) -> None:
        code = "import sys, runpy; sys.argv = ['exporter', '--help']\ntry:\n runpy.run_module('exporter', run_name='__main__')\n"
        code += "except SystemExit: pass\nassert 'torch' not in sys.modules and 'numpy' not in sys.modules"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0

    def test_list(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["--list", "ViT-bigG*"]) == 0
        assert "ViT-bigG-14" in capsys.readouterr().out

    def test_json(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        arguments = ["demo", "--out", str(tmp_path / "b"), "--json", "--towers", "image", "--parity-samples", "4"]
        assert main(arguments) == 0
        report = json.loads(capfd.readouterr().out)
        assert report["bundle"] == str(tmp_path / "b")
        assert {"stages", "parity", "towers"} <= set(report)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["ViT-B-33"], "ViT-B-32"),
            (["ViT-B-32", "--pretrained", "laion2b_s34b_b79"], "laion2b_s34b_b79k"),
            (
                ["demo", "--engine", "tensorflow"],
                f"none of auto, {', '.join(KINDS)}",
            ),
            (["demo", "--towers", "audio"], "choose from image, text"),
            (["demo", "--towers", ""], "choose from image, text"),
            # Before the model is looked for:
            (["ViT-B-33", "--parity-data", "/nowhere/at/all"], "not there"),
            (["ViT-B-33", "--parity-samples", "0"], "at least 1"),
            (["ViT-B-33", "--out", "/proc/version/b"], "cannot write /proc/version/b: Not a directory"),
            (["demo", "--out", "/proc/nowhere/b"], "/proc/nowhere"),
        ],
    )
    def test_bad_arguments(
        self, arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(arguments) == 1
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("error: ")
        assert message in error
        assert leftovers(tmp_path) == []

    def test_existing_output(self, demo_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["demo", "--out", str(demo_bundle)]) == 1
        assert "--force" in capsys.readouterr().err

    def test_no_model(self) -> None:
        assert cli().returncode == 2

    # What a killed export leaves is removed in test_bundle.py, too.
    @pytest.mark.parametrize("kill", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
    def test_interrupted(self, kill: signal.Signals, tmp_path: Path) -> None:
        """Ctrl-C leaves nothing; kill -9 leaves what the next run removes."""
        out = tmp_path / "b"
        process = subprocess.Popen(
            [sys.executable, "-m", "exporter", "demo", "--out", str(out), "--towers", "text", "--parity-samples", "4"],
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not any(tmp_path.glob(".b.partial-*/tokenizer.json")):
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(process.pid, kill)
        _, errors = process.communicate(timeout=60)
        assert not out.exists()
        if kill == signal.SIGINT:
            assert process.returncode == 130
            assert "interrupted" in errors
            assert leftovers(tmp_path) == []
        else:
            assert len(leftovers(tmp_path)) == 1
            exporter.export("demo", towers=("text",), out=out, parity_samples=4)
            assert leftovers(tmp_path) == ["b"]


def test_an_interrupt_that_a_library_swallows_ends_the_next_stage() -> None:
    """Python ignores what a finalizer raises: an export went on to its end after Ctrl-C."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stages = Stages()
    with pytest.raises(KeyboardInterrupt), stages.interruptible(), stages.stage("export", "export"):
        with contextlib.suppress(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        with stages.stage("gate", "gate"):
            raise AssertionError("the export went on")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_interrupt_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stages().interruptible():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_parity_data_folder(tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(3):
        Image.fromarray(rng.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    (folder / "broken.jpg").write_bytes(b"")
    (folder / "captions.txt").write_text("a red circle\na blue square\n")
    options = Options(name="demo", out=tmp_path / "b", parity_data=folder)
    result = run_export(options, Stages())
    assert result.manifest.parity[0].towers["image"].samples == 3
    assert result.manifest.parity[0].towers["text"].samples == 2
    assert "1 unreadable" in result.report["parity_data"]


def test_unknown_precision() -> None:
    with pytest.raises(ExportError, match="fp32, fp16, bf16"):
        exporter.export("demo", precision="fp12")
