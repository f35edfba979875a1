"""clip-benchmark's own evaluation of our engine on a webdataset, next to that of open_clip's model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_datasets import noise, picture_bytes, write_webdataset

from benchmarks.parity import main

SCENES = 54


@pytest.fixture(scope="module")
def scenes() -> Any:
    from exporter.demo.scenes import evaluation_set

    return evaluation_set(SCENES)


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory, scenes: Any) -> Path:
    """Scenes with the label of their class."""
    rows = [
        {"png": picture_bytes(image), "cls": str(label).encode()}
        for image, label in zip(scenes.images, scenes.labels, strict=True)
    ]
    names = [caption.removeprefix("a picture of ") for caption in scenes.captions]
    root = tmp_path_factory.mktemp("wds") / "scenes"
    return write_webdataset(root, rows, classnames=names, zeroshot_classification_templates=["a picture of {c}"])


@pytest.fixture(scope="module")
def captioned(tmp_path_factory: pytest.TempPathFactory, scenes: Any) -> Path:
    """Scenes with two captions each; no caption is that of another scene."""
    from exporter.demo.scenes import class_caption

    rows, seen = [], set()
    for image, scene in zip(scenes.images, scenes.scenes, strict=True):
        caption = class_caption(scene, place=True, background=True)
        if caption not in seen:
            seen.add(caption)
            rows.append({"png": picture_bytes(image), "txt": f"{caption}\nthis is {caption}".encode()})
    root = tmp_path_factory.mktemp("wds") / "captioned"
    return write_webdataset(root, rows, dataset_type=["retrieval"])


def figures(
    capsys: pytest.CaptureFixture[str], bundle: Path, tmp_path: Path, *more: str
) -> dict[str, dict[str, float]]:
    """Engine to figure to value, of the accuracies."""
    command = [str(bundle), "--samples", "8", "--device", "cpu", "--json", "--results", str(tmp_path), *more]
    assert main(command) == 0
    captured = capsys.readouterr()
    assert captured.err == "", "a pipe is quiet"
    found: dict[str, dict[str, float]] = {}
    for row in json.loads(captured.out)["rows"]:
        if row["what"] != "parity":
            assert row["low"] <= row["value"] <= row["high"]
            assert ("measured by clip-benchmark" in row["note"]) == ("clip-benchmark" in row["engine"])
            found.setdefault(row["engine"], {})[row["figure"]] = row["value"]
    return found


@pytest.mark.parametrize("task", ["classes", "captioned"])
def test_the_engine_has_open_clips_accuracy(
    task: str, demo_bundle: Path, tmp_path: Path, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> None:
    """And ours is the same, too: three harnesses' figures agree."""
    for module in ("clip_benchmark", "webdataset", "requests"):
        pytest.importorskip(module, reason="clip-benchmark is not installed: pip install 'openclip-engines[bench]'")
    root = str(request.getfixturevalue(task))
    theirs = figures(capsys, demo_bundle, tmp_path, "--data", root, "--clip-benchmark")
    assert theirs["eager, clip-benchmark"] == theirs["onnxruntime, clip-benchmark"]
    ours = figures(capsys, demo_bundle, tmp_path, "--data", root)
    kept = {name: value for name, value in ours["onnxruntime"].items() if not name.endswith("_change")}
    assert kept == pytest.approx(theirs["onnxruntime, clip-benchmark"], abs=1e-6)
    assert min(kept.values()) > 0.5


def test_its_own_loader_takes_an_engine(demo_bundle: Path) -> None:
    """What clip-benchmark's command line calls: model, transform, tokenizer."""
    pytest.importorskip("clip_benchmark")
    import torch
    from clip_benchmark import models
    from PIL import Image

    from benchmarks.accuracy.clip_benchmark import load_engine

    models.TYPE2FUNC["openclip-engines"] = load_engine
    models.MODEL_TYPES.append("openclip-engines")
    try:
        model, transform, tokenizer = models.load_clip("openclip-engines", str(demo_bundle), "onnxruntime", None, "cpu")
    finally:
        del models.TYPE2FUNC["openclip-engines"]
        models.MODEL_TYPES.remove("openclip-engines")
    model = model.to("cpu").eval()
    with torch.no_grad(), torch.autocast("cpu", enabled=True):
        image = model.encode_image(torch.stack([transform(Image.new("L", (70, 90)))] * 2))
        text = model.encode_text(tokenizer(["a red circle"]).to("cpu"))
    assert (image.shape, image.dtype) == ((2, 64), torch.float32)
    assert text.norm(dim=-1).item() == pytest.approx(1, abs=1e-5)
    model.clip.close()


@pytest.mark.parametrize("absent", ["test/nshards.txt", "zeroshot_classification_templates.txt"])
def test_a_dataset_that_it_cannot_read(
    absent: str, classes: Path, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    pytest.importorskip("clip_benchmark")
    root = Path(shutil.copytree(classes, tmp_path / "copy"))
    (root / absent).unlink()
    command = [str(demo_bundle), "--data", str(root), "--clip-benchmark", "--results", str(tmp_path / "r")]
    assert main(command) == 1
    assert f"clip-benchmark wants {root / absent}" in capsys.readouterr().err


def test_a_picture_that_it_cannot_read(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It stops there, in one sentence; without it such a picture is left out."""
    pytest.importorskip("clip_benchmark")
    whole = picture_bytes(noise(0))
    rows = [{"png": whole, "cls": b"0"}, {"png": whole[: len(whole) // 2], "cls": b"1"}]
    names = {"classnames": ["a", "b"], "zeroshot_classification_templates": ["{c}"]}
    root = write_webdataset(tmp_path / "d", rows, **names)
    command = [str(demo_bundle), "--data", str(root), "--results", str(tmp_path / "r")]
    assert main(command) == 0
    assert "pictures left out because they cannot be read: 1 (1.tar:s100000" in capsys.readouterr().out
    assert main([*command, "--clip-benchmark"]) == 1
    err = capsys.readouterr().err
    assert "clip-benchmark does not skip pictures" in err
    assert err.count("\n") == 1


def test_it_is_not_installed(
    classes: Path,
    demo_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from benchmarks.accuracy import clip_benchmark as clip_benchmark_adapter

    monkeypatch.setattr(clip_benchmark_adapter, "find_spec", lambda name: None)
    command = [str(demo_bundle), "--data", str(classes), "--clip-benchmark", "--results", str(tmp_path)]
    assert main(command) == 1
    assert "clip-benchmark is not installed: pip install 'openclip-engines[bench]'" in capsys.readouterr().err


def test_accuracy_in_place_of_one_that_numpy_refuses() -> None:
    import torch

    from benchmarks.accuracy.clip_benchmark import _accuracy

    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.rand(200, 9, generator=generator), torch.randint(0, 9, (200,), generator=generator)
    ranks = (scores > scores.gather(1, labels[:, None])).sum(dim=1)
    assert _accuracy(scores, labels, (1, 5)) == [(ranks < k).double().mean().item() for k in (1, 5)]
