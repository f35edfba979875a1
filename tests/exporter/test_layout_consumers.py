"""Optimum and transformers.js load the layout for real, and give the embeddings of the bundle on equal pixels and ids.

Optimum does not go with transformers 5, so it has an environment of its own, which takes PyTorch and the other libraries from that
of the tests. Both environments are made once, in folders that git ignores.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

import engines
from exporter.layouts.__main__ import main
from exporter.layouts.differences import normalized

pytestmark = pytest.mark.long

_ROOT = Path(__file__).resolve().parents[2]
_OPTIMUM = (
    "optimum-onnx==0.1.0 optimum==2.1.0 transformers==4.57.6 tokenizers==0.22.1 huggingface_hub==0.36.0 "
    "requests urllib3 certifi charset_normalizer idna"
)
_TRANSFORMERS_JS = "@huggingface/transformers@4.3.2"
TEXTS, LABELS = (
    ["a red circle", "Two BLUE squares", "three green triangles, isn't it?"],
    ["a red circle", "blue squares"],
)


def made_once(name: str, content: str, make: Callable[[Path], None]) -> Path:
    """A folder in the repository that is made again when `content` changes; processes of the tests wait for each other."""
    folder = _ROOT / name
    with FileLock(f"{folder}.lock"):
        stamp = folder / "made-of.txt"
        if not stamp.is_file() or stamp.read_text(encoding="utf-8") != content:
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            stamp.write_text(content, encoding="utf-8")
    return folder


def run(*command: str, **variables: str) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def make_optimum(folder: Path) -> None:
    run(sys.executable, "-m", "venv", str(folder))
    run(str(folder / "bin" / "python"), "-m", "pip", "install", "-q", "--no-deps", *_OPTIMUM.split())
    (site,) = folder.glob("lib/python3*/site-packages")
    (site / "of_the_tests.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")


def make_transformers_js(folder: Path) -> None:
    folder.mkdir()
    # Its installation script would fetch CUDA libraries.
    run("npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--prefix", str(folder), _TRANSFORMERS_JS)


class Inputs:
    """Pixels, ids and a picture, and the bundle's embeddings of them."""

    def __init__(self, bundle: Path) -> None:
        generator = np.random.default_rng(0)
        with engines.load(bundle, engine="onnxruntime") as clip:
            pixels = generator.integers(0, 256, (3, *clip.manifest.preprocess.size, 3), dtype=np.uint8)
            self.pixels = normalized(pixels, clip.manifest.preprocess)
            self.ids = clip.tokenize(TEXTS).astype(np.int64)
            self.images, self.texts = clip.encode_image(pixels), clip.encode_text(TEXTS)
            # At the model's own size nothing is resized: the pipelines have to give our probabilities.
            self.picture = pixels[0]
            template = "This is a photo of {}."
            self.scores = clip.classify([Image.fromarray(self.picture)], LABELS, templates=[template])

    def check(self, found: dict[str, Any], tolerance: float) -> None:
        np.testing.assert_allclose(found["texts"], self.texts, atol=tolerance)
        np.testing.assert_allclose(found["images"], self.images, atol=tolerance)
        for ids, ours in zip(found["ids"], self.ids, strict=True):
            length = ours.argmax() + 1
            np.testing.assert_array_equal(ids[:length], ours[:length])
        scores = {score["label"]: score["score"] for score in found["scores"]}
        assert sum(scores.values()) == pytest.approx(1, abs=1e-5)


@pytest.fixture(scope="module")
def inputs(demo_bundle: Path) -> Inputs:
    return Inputs(demo_bundle)


@pytest.fixture(scope="module")
def layout(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporter.pipeline import export

    folder = tmp_path_factory.mktemp("layouts")
    half = export("demo", precision="fp16", parity_samples=4, out=folder / "half")
    assert main([str(demo_bundle), str(half), "--out", str(folder / "demo")]) == 0
    return folder / "demo"


@pytest.mark.parametrize(
    ("options", "tolerance"),
    [({}, 1e-5), ({"subfolder": "onnx", "file_name": "model_fp16.onnx"}, 5e-3)],
    ids=["fp32", "fp16"],
)
def test_optimum(layout: Path, inputs: Inputs, options: dict[str, str], tolerance: float, tmp_path: Path) -> None:
    folder = made_once(".venv-optimum", f"{_OPTIMUM} {sys.version}", make_optimum)
    arrays: dict[str, Any] = {"pixels": inputs.pixels, "ids": inputs.ids, "picture": inputs.picture}
    words: dict[str, Any] = {"options": json.dumps(options), "labels": LABELS, "texts": TEXTS}
    np.savez(tmp_path / "in.npz", **arrays, **words)
    script = Path(__file__).with_name("optimum_zero_shot.py")
    out = tmp_path / "out.json"
    run(str(folder / "bin" / "python"), str(script), str(layout), str(tmp_path / "in.npz"), str(out))
    inputs.check(json.loads(out.read_text(encoding="utf-8")), tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-5), ("fp16", 5e-3)])
def test_transformers_js(layout: Path, inputs: Inputs, dtype: str, tolerance: float, tmp_path: Path) -> None:
    folder = made_once(".node-transformers", _TRANSFORMERS_JS, make_transformers_js)
    Image.fromarray(inputs.picture).save(tmp_path / "picture.png")
    given = {
        "dtype": dtype,
        "texts": TEXTS,
        "labels": LABELS,
        "pixels": inputs.pixels.ravel().tolist(),
        "shape": inputs.pixels.shape,
        "picture": str(tmp_path / "picture.png"),
    }
    (tmp_path / "in.json").write_text(json.dumps(given), encoding="utf-8")
    out = tmp_path / "out.json"
    library = folder / "node_modules" / "@huggingface" / "transformers" / "dist" / "transformers.node.mjs"
    script = Path(__file__).with_name("transformers_js.mjs")
    words = (str(layout.parent) + "/", layout.name, str(tmp_path / "in.json"), str(out))
    run("node", str(script), *words, TRANSFORMERS_JS=str(library))
    inputs.check(json.loads(out.read_text(encoding="utf-8")), tolerance)
