"""Layouts in the libraries that they are for: Optimum and transformers.js, against `engines` on equal pixels and ids."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from consumers import ROOT, node_folder, optimum_python
from documentation import blocks
from made_once import made_once
from made_pictures import picture
from PIL import Image

import engines
from engines.inputs.preprocess import normalize_pixels
from exporter.layouts.clip_tokenizer import read_ids
from exporter.layouts.transformers import write_layout
from exporter.reference.parity_data import load_parity_data

pytestmark = pytest.mark.long
LIMIT = 1e-5
LABELS = ["a red circle", "two blue squares", "a green triangle"]
# Precision, the file for Optimum, the dtype of transformers.js, and ONNX Runtime's level, which is that of `engines`.
CASES = [
    pytest.param("fp32", "model.onnx", "fp32", "ALL", id="fp32"),
    pytest.param("fp16", "model_fp16.onnx", "fp16", "EXTENDED", id="fp16"),
    pytest.param("int8", "model_quantized.onnx", "q8", "EXTENDED", id="int8"),
]


@dataclass(frozen=True)
class Expected:
    """Inputs, and what `engines` gives for them."""

    pixels: np.ndarray  # normalized
    bytes: np.ndarray
    ids: np.ndarray
    captions: list[str]
    image: np.ndarray
    text: np.ndarray
    logit_scale: float


@pytest.fixture(scope="module")
def bundles(shared: Path, demo_bundle: Path) -> dict[str, Path]:
    """The demo model in the three precisions. Read only."""
    import exporter

    def make(precision: str) -> Path:
        export = {"parity_samples": 16, "precision": precision, "engines": ("onnxruntime",)}
        return made_once(shared, f"layout-{precision}", lambda out: exporter.export("demo", out=out, **export))  # type: ignore[arg-type]

    return {"fp32": demo_bundle, "fp16": make("fp16"), "int8": make("int8")}


@pytest.fixture(scope="module")
def layout(shared: Path, bundles: dict[str, Path]) -> Path:
    """All three in one folder. Read only."""
    return made_once(shared, "layout-of-three", lambda out: write_layout(list(bundles.values()), out))


def expected_of(bundle: Path, layout: Path) -> Expected:
    data = load_parity_data(None, 16, 96)  # every 64th caption is longer than 77 tokens
    captions = list(data.captions)
    with engines.load(bundle, engine="onnxruntime", device="cpu") as clip:
        pixels = np.stack([clip.preprocess(image) for image in data.images])
        rows = read_ids(layout, captions, 77)
        longest = max(map(len, rows))
        assert longest == 77
        ids = np.array([[*row, *[49407] * (longest - len(row))] for row in rows], np.int64)
        model = clip.manifest.model
        return Expected(
            normalize_pixels(pixels, clip.manifest.preprocess),
            pixels,
            ids,
            captions,
            clip.encode_image(pixels),
            clip.encode_text(captions),
            model.logit_scale,
        )


def by_the_runtime_of_node(bundle: Path, expected: Expected, folder: Path) -> Expected:
    """The embeddings by `engines` with the version of ONNX Runtime that transformers.js brings."""
    np.savez(folder / "pixels.npz", pixels=expected.bytes, captions=np.array(expected.captions))
    code = (
        "import sys, numpy as np; sys.path.insert(0, sys.argv[1]); import engines\n"
        "given = np.load(sys.argv[3])\n"
        "with engines.load(sys.argv[2], engine='onnxruntime', device='cpu') as clip:\n"
        "    np.savez(sys.argv[4], image=clip.encode_image(given['pixels']), text=clip.encode_text(list(given['captions'])))\n"
        "    print(clip.engines)\n"
    )
    arguments = [node_folder() / "python", bundle, folder / "pixels.npz", folder / "embeds.npz"]
    used = run([sys.executable, "-c", code, *arguments], ROOT)
    package = node_folder() / "node_modules" / "onnxruntime-node" / "package.json"
    assert json.loads(package.read_text())["version"] in used
    embeds = np.load(folder / "embeds.npz")
    return dataclasses.replace(expected, image=embeds["image"], text=embeds["text"])


def scores_of(bundle: Path, image: Image.Image) -> dict[str, float]:
    with engines.load(bundle, engine="onnxruntime", device="cpu") as clip:
        return dict(zip(LABELS, clip.classify([image], LABELS)[0].tolist(), strict=True))


def check_embeds(found: Any, expected: Expected) -> None:
    assert np.abs(np.asarray(found["image"]) - expected.image).max() <= LIMIT
    assert np.abs(np.asarray(found["text"]) - expected.text).max() <= LIMIT
    logits = expected.logit_scale * expected.image @ expected.text.T
    assert np.abs(np.asarray(found["logits"]) - logits).max() <= 2 * LIMIT * expected.logit_scale * np.sqrt(64)


@pytest.mark.parametrize(("precision", "file", "dtype", "level"), CASES)
def test_optimum(
    precision: str, file: str, dtype: str, level: str, layout: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    expected, image = expected_of(bundles[precision], layout), picture(1).convert("RGB").resize((64, 64))
    inputs, outputs = tmp_path / "in.npz", tmp_path / "out.npz"
    captions, labels = np.array(expected.captions), np.array(LABELS)
    np.savez(
        inputs, pixels=expected.pixels, ids=expected.ids, captions=captions, labels=labels, picture=np.asarray(image)
    )
    program = ROOT / "tests" / "optimum_program.py"
    run([optimum_python(), program, layout, file, inputs, outputs, f"ORT_ENABLE_{level}"])
    found = np.load(outputs)
    check_embeds(found, expected)
    assert found["ids"].tolist() == expected.ids.tolist()
    ours = scores_of(bundles[precision], image)  # of the model's own size, so that no resize differs
    theirs = dict(zip(found["labels"].tolist(), found["scores"].tolist(), strict=True))
    assert theirs == pytest.approx(ours, abs=1e-3)


@pytest.mark.parametrize(("precision", "file", "dtype", "level"), CASES)
def test_transformers_js(
    precision: str, file: str, dtype: str, level: str, layout: Path, bundles: dict[str, Path], tmp_path: Path
) -> None:
    expected = expected_of(bundles[precision], layout)
    if precision == "fp16":  # float16 kernels for CPUs give other numbers in other versions of ONNX Runtime
        expected = by_the_runtime_of_node(bundles[precision], expected, tmp_path)
    inputs, outputs, image = tmp_path / "in.json", tmp_path / "out.json", tmp_path / "picture.png"
    small = picture(1).convert("RGB").resize((64, 64))
    small.save(image)
    given = {
        "pixels": expected.pixels.reshape(-1).tolist(),
        "shape": list(expected.pixels.shape),
        "ids": expected.ids.tolist(),
        "captions": expected.captions,
        "labels": LABELS,
        "picture": str(image),
    }
    inputs.write_text(json.dumps(given))
    program = ROOT / "tests" / "transformers_js_program.mjs"
    run(["node", program, node_folder(), layout, dtype, level.lower(), inputs, outputs])
    found = json.loads(outputs.read_text())
    check_embeds(found, expected)
    assert np.abs(np.array(found["text_alone"]) - expected.text).max() <= LIMIT
    assert np.abs(np.array(found["image_alone"]) - expected.image).max() <= LIMIT
    # Its tokenizer cuts captions of more than 77 tokens without an end token: the graph puts it back.
    ids = np.array(found["ids"])
    cut = (ids != 49407).all(axis=1)
    assert cut.any()
    assert np.array_equal(ids[~cut], expected.ids[~cut])
    assert np.abs(np.array(found["captions"]) - expected.text).max() <= LIMIT
    ours = scores_of(bundles[precision], small)
    assert {row["label"]: row["score"] for row in found["scores"]} == pytest.approx(ours, abs=1e-3)


def test_weights_beside_the_graphs(demo_bundle: Path, tmp_path: Path) -> None:
    """As of models of more than 2 GB: both libraries find the second file."""
    write_layout([demo_bundle], tmp_path / "demo-bundle--transformers", inline_bytes=0)
    assert (tmp_path / "demo-bundle--transformers" / "onnx" / "model.onnx_data").stat().st_size > 1_000_000
    picture(1).save(tmp_path / "cat.jpg")
    (tmp_path / "page.py").write_text(block_of("optimum"))
    (tmp_path / "page.mjs").write_text(block_of("@huggingface/transformers"))
    (tmp_path / "node_modules").symlink_to(node_folder() / "node_modules")
    for command in ([optimum_python(), "page.py"], ["node", "page.mjs"]):
        assert "a cat" in run(command, tmp_path)


def test_the_page_in_optimum(layout: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.py"
    page.write_text(block_of("optimum"))
    furnish(tmp_path, layout)
    assert "a cat" in run([optimum_python(), page], tmp_path)


def test_the_page_in_node(layout: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.mjs"
    page.write_text(block_of("@huggingface/transformers"))
    furnish(tmp_path, layout)
    (tmp_path / "node_modules").symlink_to(node_folder() / "node_modules")
    assert "a cat" in run(["node", page], tmp_path)


def furnish(folder: Path, layout: Path) -> None:
    (folder / "demo-bundle--transformers").symlink_to(layout)
    picture(1).save(folder / "cat.jpg")


def block_of(library: str) -> str:
    """The one block of code in docs/ecosystem.md that names a library."""
    (block,) = (
        block
        for block in blocks(ROOT / "docs" / "ecosystem.md")
        if f'"{library}"' in block.text or f"from {library}" in block.text
    )
    return block.text


def run(command: list[Any], folder: Path | None = None) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, env=environment, cwd=folder, timeout=600
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return ran.stdout
