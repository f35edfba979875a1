"""python -m benchmarks parity on the demo bundle: figures, damaged engines, engines that are not there, wrong input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_datasets import write_webdataset

from benchmarks.accuracy import measurement as parity_run
from benchmarks.parity import main
from benchmarks.records import rows

Run = Callable[..., tuple[int, dict[str, Any], str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command with --json; exit code, the object, and standard error."""

    def command(bundle: Path, *more: str) -> tuple[int, dict[str, Any], str]:
        common = ["--samples", "12", "--device", "cpu", "--json", "--results", str(tmp_path / "rows")]
        code = main([str(bundle), *common, *more])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else {}, captured.err

    return command


def figure(found: dict[str, Any], name: str, engine: str = "onnxruntime", tower: str = "") -> dict[str, Any]:
    """The one row of a figure."""
    wanted = {"figure": name, "engine": engine, "tower": tower}
    (row,) = [row for row in found["rows"] if all(row[key] == value for key, value in wanted.items())]
    return dict(row)


def edit_manifest(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
    path = bundle / "manifest.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def with_unknown_engine(bundle: Path) -> None:
    """Another kind of engine that no release can run, beside what is there."""

    def add(data: dict[str, Any]) -> None:
        data["engines"] += [engine | {"kind": "warp-drive"} for engine in data["engines"]]

    edit_manifest(bundle, add)


class TestDemo:
    def test_an_engine_is_as_good_as_eager(self, demo_bundle: Path, tmp_path: Path, run: Run) -> None:
        code, found, err = run(demo_bundle, "--limit", "108")
        assert (code, err) == (0, "")
        assert found["reference_error"] < 1e-5
        for tower in ("image", "text"):
            assert figure(found, "min_cosine", tower=tower)["value"] > 0.99999
            assert figure(found, "max_abs_error", tower=tower)["value"] < 1e-5
            agreement = figure(found, "top1_agreement", tower=tower)
            assert (agreement["value"], agreement["high"], agreement["repeats"]) == (1, 1, 12)
        top1, eager = figure(found, "top1"), figure(found, "top1", "eager")
        assert eager["value"] > 0.9
        assert (top1["value"], top1["low"], top1["repeats"]) == (eager["value"], eager["low"], 108)
        assert top1["low"] < top1["value"] < top1["high"] <= 1
        change = figure(found, "top1_change")
        assert change["low"] < change["value"] == 0 < change["high"] < 0.05
        assert figure(found, "text_to_image_recall_1")["value"] > 0.8
        assert figure(found, "image_to_text_recall_1_change")["value"] == 0
        kept = rows.read(tmp_path / "rows")
        assert {row.what for row in kept} == {"parity", "zero_shot", "retrieval"}
        assert len(kept) == len(found["rows"])
        assert all(row.model == "demo" and row.weights == "demo" and row.machine and row.versions for row in kept)

    def test_wrong_weights_are_seen(self, bundle_copy: Path, run: Run) -> None:
        """Noise on the image tower's weights, as large as a fifth of them: same size, so that the bundle loads."""
        path = bundle_copy / "image.onnx.data"
        weights = np.fromfile(path, np.float32)
        rng = np.random.default_rng(0)
        (weights + rng.normal(size=weights.shape).astype(np.float32) * weights.std() * 0.4).tofile(path)
        code, found, _ = run(bundle_copy, "--limit", "108")
        assert code == 0
        assert figure(found, "min_cosine", tower="image")["value"] < 0.99
        assert figure(found, "min_cosine", tower="text")["value"] > 0.9999
        change = figure(found, "top1_change")
        assert change["high"] < 0, "worse than eager beyond chance"
        assert change["value"] == pytest.approx(
            figure(found, "top1")["value"] - figure(found, "top1", "eager")["value"]
        )
        assert figure(found, "image_to_text_recall_1_change")["high"] < 0

    def test_a_table_for_people(
        self, demo_bundle: Path, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Of a run whose rows replace those of another."""
        _, found, _ = run(demo_bundle, "--limit", "18")
        results = tmp_path / "rows"
        assert main([str(demo_bundle), "--samples", "4", "--limit", "18", "--results", str(results)]) == 0
        captured = capsys.readouterr()
        for words in (
            "min cosine",
            "top-1 as eager",
            "zero-shot, demo scenes",
            "text→image @1",
            "eager",
            "onnxruntime",
            "[",
        ):
            assert words in captured.out
        assert captured.err == ""
        kept = rows.read(results)
        assert len(kept) == len(found["rows"])
        assert {row.repeats for row in kept if row.what == "parity"} == {4}


class TestData:
    @pytest.fixture
    def scenes(self, tmp_path: Path) -> Path:
        """One folder for each of four classes, a picture that is none, and captions in another folder."""
        from exporter.demo.scenes import class_caption, evaluation_set

        made = evaluation_set(108)
        kept = [i for i, label in enumerate(made.labels) if label < 4]
        (tmp_path / "captioned").mkdir()
        lines = []
        for i in kept:
            folder = (
                tmp_path / "classes" / made.captions[made.labels[i]].removeprefix("a picture of ").replace(" ", "_")
            )
            folder.mkdir(parents=True, exist_ok=True)
            made.images[i].save(folder / f"{i}.png")
            made.images[i].save(tmp_path / "captioned" / f"{i}.png")
            lines.append(f"{i}.png\t{class_caption(made.scenes[i], place=True, background=True)}")
        (folder / "broken.jpg").write_bytes(b"no picture")
        (tmp_path / "captioned" / "captions.txt").write_text("\n".join(lines))
        return tmp_path

    def test_class_folders(self, scenes: Path, demo_bundle: Path, run: Run) -> None:
        code, found, _ = run(demo_bundle, "--data", str(scenes / "classes"), "--template", "a picture of {}")
        assert code == 0
        assert figure(found, "top1")["value"] == 1
        assert figure(found, "top1")["shape"] == "classes"
        assert "4 classes" in figure(found, "top1")["note"]
        assert not [row for row in found["rows"] if row["figure"] == "top5"], (
            "of four classes the best five are no figure"
        )
        assert figure(found, "min_cosine", tower="image")["shape"] == "classes"
        assert any(note.startswith("pictures left out because they cannot be read: 1 (") for note in found["notes"])

    def test_captions(self, scenes: Path, demo_bundle: Path, run: Run) -> None:
        code, found, _ = run(demo_bundle, "--data", str(scenes / "captioned"))
        assert code == 0
        assert figure(found, "image_to_text_recall_1")["value"] == 1
        assert {row["what"] for row in found["rows"]} == {"parity", "retrieval"}

    def test_own_pictures_for_the_embeddings(self, scenes: Path, demo_bundle: Path, run: Run) -> None:
        code, found, _ = run(demo_bundle, "--limit", "18", "--parity-data", str(scenes / "classes"))
        assert code == 0
        assert figure(found, "min_cosine", tower="image")["shape"] == "classes"
        assert figure(found, "top1")["shape"] == "demo scenes"

    def test_broken_data(self, tmp_path: Path, demo_bundle: Path, run: Run) -> None:
        root = write_webdataset(tmp_path / "d", [{"png": b"x", "cls": b"7"}], shards=1, classnames=["a", "b"])
        code, _, err = run(demo_bundle, "--data", str(root))
        assert code == 1
        assert err == ("error: label 7 of 0.tar:s000000 is out of range: classnames.txt has 2 names, 0 to 1\n")


class TestEngines:
    def test_one_that_cannot_run_is_a_row(self, bundle_copy: Path, run: Run) -> None:
        with_unknown_engine(bundle_copy)
        code, found, _ = run(bundle_copy, "--limit", "18")
        assert code == 0
        for name, tower in (("min_cosine", "image"), ("top1_agreement", "text"), ("top1", ""), ("top1_change", "")):
            row = figure(found, name, "warp-drive", tower)
            assert (row["status"], row["value"]) == ("missing", None)
            assert "does not know the engine kind 'warp-drive'" in row["note"]
        assert figure(found, "top1")["status"] == "ok"

    def test_none_can_run(self, bundle_copy: Path, tmp_path: Path, run: Run) -> None:
        edit_manifest(
            bundle_copy, lambda data: [engine.update(kind="warp-drive") for engine in data["engines"]] and None
        )
        code, _, err = run(bundle_copy)
        assert code == 1
        assert err.startswith(
            "error: no engine of the bundle that was asked for can run here (warp-drive: this release"
        )
        assert err.count("\n") == 1
        assert {row.status for row in rows.read(tmp_path / "rows")} == {"missing"}

    @pytest.mark.parametrize("where", [pytest.param("encode_image", marks=pytest.mark.long), "encode_text"])
    def test_one_that_crashes_is_a_row_and_the_others_are_measured(
        self, where: str, bundle_copy: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two kinds of which one's library raises in the middle."""
        load = parity_run.engines.load

        def crash(*_: Any) -> None:
            raise RuntimeError("CUDA error 700:\n illegal address")

        def fails_once(path: Path, engine: str, device: str) -> Any:
            clip = load(path, "onnxruntime", device)
            if engine == "warp-drive":
                monkeypatch.setattr(clip, where, crash)
            return clip

        with_unknown_engine(bundle_copy)
        monkeypatch.setattr(parity_run.engines, "load", fails_once)
        monkeypatch.setattr("engines.runtimes.choice.why_not", lambda engine, precision, device="auto": None)
        code, found, _ = run(bundle_copy, "--limit", "18")
        assert code == 0
        for name, tower in (
            ("min_cosine", "image"),
            ("min_cosine", "text"),
            ("top1", ""),
            ("text_to_image_recall_5", ""),
        ):
            row = figure(found, name, "warp-drive", tower)
            assert (row["status"], row["note"]) == ("failed", "RuntimeError: CUDA error 700: illegal address")
            assert figure(found, name, tower=tower)["status"] == "ok"
        assert any(note.startswith("warp-drive failed: ") for note in found["notes"])

    def test_all_crash(self, demo_bundle: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(parity_run.EngineEncoders, "encode_texts", lambda *_: 1 / 0)
        code, found, _ = run(demo_bundle, "--limit", "18")
        assert code == 1
        assert figure(found, "top1")["status"] == "failed"

    def test_interrupted(self, demo_bundle: Path, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        """In the accuracy of the engine: eager's rows and the engine's embeddings are kept."""
        whole = parity_run.measure

        def interrupted(encoders: Any, *more: Any) -> Any:
            if isinstance(encoders, parity_run.EngineEncoders):
                raise KeyboardInterrupt
            return whole(encoders, *more)

        monkeypatch.setattr(parity_run, "measure", interrupted)
        code, _, err = run(demo_bundle, "--limit", "18")
        assert (code, err) == (130, "interrupted: rows of what was finished are kept\n")
        kept = rows.read(tmp_path / "rows")
        assert {(row.what, row.engine) for row in kept} == {
            ("parity", "onnxruntime"),
            ("zero_shot", "eager"),
            ("retrieval", "eager"),
        }


class TestEager:
    @pytest.mark.long
    def test_random_weights_are_built_again(self, tmp_path: Path, run: Run) -> None:
        """An export of its own. The exporter's tests show that they are the same each time, the next one that they are compared."""
        import exporter

        bundle = exporter.export("demo", pretrained="none", out=tmp_path / "random", parity_samples=4)
        code, found, _ = run(bundle)
        assert code == 0
        assert figure(found, "min_cosine", tower="image")["value"] > 0.9999
        assert {row["what"] for row in found["rows"]} == {"parity"}
        assert {row["weights"] for row in found["rows"]} == {"random"}
        assert any("random weights: its accuracy would say nothing" in note for note in found["notes"])

    def test_other_weights_are_refused(self, bundle_copy: Path, tmp_path: Path, run: Run) -> None:
        edit_manifest(bundle_copy, lambda data: data["model"].update(source="random"))
        code, _, err = run(bundle_copy)
        assert code == 1
        assert "differs from the embeddings" in err
        assert "export again" in err
        code, _, err = run(bundle_copy, "--data", str(tmp_path))
        assert code == 1
        assert "the bundle has random weights: its accuracy would say nothing" in err
        assert "--parity-data" in err

    def test_a_folder_of_the_users(self, bundle_copy: Path, run: Run) -> None:
        """The manifest of a local-dir: model keeps no path."""
        from exporter.source.origins import DEMO_FOLDER

        edit_manifest(bundle_copy, lambda data: data["model"].update(source="local-dir", name="local-dir:mine"))
        code, _, err = run(bundle_copy)
        assert code == 1
        assert "keeps the name local-dir:mine, but not its path: pass that with --pretrained" in err
        code, found, _ = run(bundle_copy, "--pretrained", str(DEMO_FOLDER))
        assert code == 0
        assert found["reference_error"] < 1e-5
        assert any("pass labelled pictures with --data" in note for note in found["notes"])

    def test_a_checkpoint_of_the_users(self, bundle_copy: Path, tmp_path: Path, run: Run) -> None:
        edit_manifest(
            bundle_copy, lambda data: data["model"].update(source="checkpoint", name="w.pt", architecture="ViT-B-32")
        )
        assert "pass that with --pretrained" in run(bundle_copy)[2]
        code, _, err = run(bundle_copy, "--pretrained", str(tmp_path / "absent.pt"))
        assert code == 1
        assert "no such checkpoint" in err

    def test_weights_that_are_not_at_hand(self, bundle_copy: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        change = {
            "source": "pretrained",
            "architecture": "ViT-B-16",
            "name": "ViT-B-16",
            "tag": "datacomp_xl_s13b_b90k",
        }
        edit_manifest(bundle_copy, lambda data: data["model"].update(change))
        code, _, err = run(bundle_copy)
        assert code == 1
        assert "there is no eager PyTorch to compare with: cannot download" in err
        assert "--pretrained PATH" in err

    def test_other_preprocessing_is_refused(self, bundle_copy: Path, run: Run) -> None:
        edit_manifest(bundle_copy, lambda data: data["preprocess"].update(mean=[0.4, 0.4, 0.4]))
        code, _, err = run(bundle_copy)
        assert code == 1
        assert "another embedding size or preprocessing" in err


def test_a_bundle_with_one_tower(bundle_copy: Path, run: Run) -> None:
    def only_image(data: dict[str, Any]) -> None:
        del data["towers"]["text"]
        data["tokenizer"] = None
        data["engines"] = [engine for engine in data["engines"] if engine["tower"] == "image"]

    edit_manifest(bundle_copy, only_image)
    code, found, _ = run(bundle_copy)
    assert code == 0
    assert {row["tower"] for row in found["rows"]} == {"image"}
    assert "only its image tower" in found["notes"][0]


def test_a_damaged_bundle(bundle_copy: Path, run: Run) -> None:
    path = bundle_copy / "image.onnx.data"
    path.write_bytes(path.read_bytes()[:-4])
    code, _, err = run(bundle_copy)
    assert code == 1
    assert err.startswith("error: image.onnx.data has ")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--samples", "1"), "--samples 1 is too few"),
        (("--engine", "tensorrt"), "has no engine 'tensorrt': it has onnxruntime"),
        (("--template", "a {}"), "name it with --data"),
        (("--clip-benchmark",), "name it with --data"),
        (("--clip-benchmark", "--data", ".", "--limit", "9"), "drop --limit or --clip-benchmark"),
        (("--data", "absent"), "dataset absent is not there"),
        (("--parity-data", "absent"), "parity data absent is not there"),
    ],
)
def test_wrong_arguments_are_one_line(arguments: tuple[str, ...], words: str, demo_bundle: Path, run: Run) -> None:
    code, _, err = run(demo_bundle, *arguments)
    assert code == 1
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_no_bundle(tmp_path: Path, run: Run) -> None:
    code, _, err = run(tmp_path)
    assert code == 1
    assert "is not a bundle" in err
