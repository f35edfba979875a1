"""The layout for Hugging Face's loaders: graphs, tokenizer and configuration without the loaders, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime
import pytest
import transformers

import engines
from engines.manifest import read_manifest
from exporter.__main__ import main as exporter_main
from exporter.layouts.__main__ import main
from exporter.layouts.differences import normalized
from exporter.layouts.refusals import why_not

TEXTS = ["a red circle", "Two BLUE squares, isn't it?", "hello! \u00fcber 3 caf\u00e9s \u96ea", "word " * 100]


@pytest.fixture(scope="module")
def layout(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("layout") / "demo"
    assert main([str(demo_bundle), "--out", str(out)]) == 0
    return out


def run(path: Path, outputs: list[str], inputs: dict[str, Any]) -> list[Any]:
    return list(onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(outputs, inputs))


def test_graphs_give_the_embeddings_of_the_bundle(layout: Path, demo_bundle: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), dtype=np.uint8)
    with engines.load(demo_bundle, engine="onnxruntime") as clip:
        images, texts = clip.encode_image(pixels), clip.encode_text(TEXTS)
        inputs = {
            "pixel_values": normalized(pixels, clip.manifest.preprocess),
            "input_ids": clip.tokenize(TEXTS).astype(np.int64),
        }
        scale = clip.manifest.model.logit_scale
    onnx = layout / "onnx"
    alone = [
        run(onnx / "vision_model.onnx", ["image_embeds"], {"pixel_values": inputs["pixel_values"]})[0],
        run(onnx / "text_model.onnx", ["text_embeds"], {"input_ids": inputs["input_ids"]})[0],
    ]
    names = ["logits_per_image", "logits_per_text", "image_embeds", "text_embeds"]
    per_image, per_text, *joint = run(onnx / "model.onnx", names, inputs)
    for found, expected in zip([*alone, *joint], [images, texts] * 2, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(per_image, scale * images @ texts.T, atol=1e-4 * scale)
    np.testing.assert_array_equal(per_text, per_image.T)


def test_the_tokenizer_gives_the_ids_of_clean_captions(layout: Path, demo_bundle: Path) -> None:
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(layout)
    with engines.load(demo_bundle, engine="onnxruntime") as clip:
        ours = clip.tokenize(TEXTS)
    for text, row in zip(TEXTS, ours, strict=True):
        ids = tokenizer(text, truncation=True)["input_ids"]
        np.testing.assert_array_equal(ids, row[: len(ids)])
        assert not row[len(ids) :].any()
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|startoftext|>",
        "<|endoftext|>",
        "<|endoftext|>",
    )


def test_the_card_says_what_differs(layout: Path) -> None:
    card = (layout / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in card.splitlines() if line.startswith(("| pictures", "| captions"))]
    pictures, captions, hard = (float(row[2]) for row in rows)
    assert 0.9 < pictures < 1
    assert captions > 0.9999
    assert hard < 0.99, "ftfy and HTML entities are not there, and the card has to say so"
    config = json.loads((layout / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert (config["size"], config["resample"]) == ({"shortest_edge": 64}, 3)


def test_an_export_writes_it_beside_the_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "half"
    words = ["demo", "--fp16", "--layout", "transformers", "--parity-samples", "4", "--out", str(out)]
    assert exporter_main(words) == 0
    names = {path.name for path in (tmp_path / "half-transformers" / "onnx").iterdir()}
    assert names == {"model_fp16.onnx", "text_model_fp16.onnx", "vision_model_fp16.onnx"}
    card = (tmp_path / "half-transformers" / "README.md").read_text(encoding="utf-8")
    assert "no fp32 bundle" in card
    assert 'file_name="model_fp16.onnx"' in card
    capsys.readouterr()
    assert exporter_main([*words, "--force"]) == 1
    assert "half-transformers exists" in capsys.readouterr().err


def test_a_folder_is_not_overwritten_and_nothing_is_left(demo_bundle: Path, tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    assert main([str(demo_bundle), "--out", str(tmp_path / "out")]) == 1
    assert main([str(demo_bundle), str(demo_bundle), "--out", str(tmp_path / "twice")]) == 1
    assert main([str(tmp_path / "nothing"), "--out", str(tmp_path / "new")]) == 1
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3
    assert "one for each precision" in errors[1]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"precision": "bf16"}, "bf16"),
        ({"tokenizer": {"clean": "whitespace"}}, "not CLIP's"),
        ({"preprocess": {"resize_mode": "longest"}}, "pads pictures"),
        ({"length": {"keep": "fixed"}}, "sees the padding"),
        ({"towers": "image"}, "lacks a tower"),
    ],
)
def test_what_has_no_class_there_is_refused(demo_bundle: Path, change: dict[str, Any], reason: str) -> None:
    manifest = read_manifest(demo_bundle)
    assert why_not(manifest) is None
    for field, value in change.items():
        if field == "length":
            text = manifest.towers["text"]
            assert text.length is not None
            towers: Any = manifest.towers | {
                "text": msgspec.structs.replace(text, length=msgspec.structs.replace(text.length, **value))
            }
            manifest = msgspec.structs.replace(manifest, towers=towers)
        elif field == "towers":
            manifest = msgspec.structs.replace(manifest, towers={"image": manifest.towers["image"]})
        elif isinstance(value, dict):
            changed = msgspec.structs.replace(getattr(manifest, field), **value)
            manifest = msgspec.structs.replace(manifest, **{field: changed})
        else:
            manifest = msgspec.structs.replace(manifest, **{field: value})
    why = why_not(manifest)
    assert why is not None
    assert reason in why
