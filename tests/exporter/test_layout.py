"""exporter.layouts: the folder for Optimum and transformers.js, read with ONNX Runtime, onnx and the transformers that is here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from edited_bundles import edit_manifest
from made_once import made_once

import engines
from engines.inputs.preprocess import normalize_pixels
from engines.manifest import Manifest, read_manifest
from exporter.errors import ExportError
from exporter.layouts.__main__ import main
from exporter.layouts.measurement import LIMIT, measure
from exporter.layouts.support import check_supported
from exporter.layouts.transformers import layout_folder, write_layout
from exporter.reference.parity_data import load_parity_data

FILES = {
    *("README.md", "config.json", "preprocessor_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt"),
    *("onnx/model.onnx", "onnx/text_model.onnx", "onnx/vision_model.onnx"),
}


@pytest.fixture(scope="module")
def layout(shared: Path, demo_bundle: Path) -> Path:
    """Of the demo bundle, by the command line. Read only."""

    def make(out: Path) -> None:
        assert main([str(demo_bundle), "--out", str(out)]) == 0

    return made_once(shared, "layout-fp32", make)


@pytest.fixture(scope="module")
def manifest(demo_bundle: Path) -> Manifest:
    return read_manifest(demo_bundle)


def run(graph: Path, **feeds: np.ndarray) -> dict[str, np.ndarray]:
    session = ort.InferenceSession(str(graph))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, feeds), strict=True))


def test_the_folder(layout: Path) -> None:
    assert {path.relative_to(layout).as_posix() for path in layout.rglob("*") if path.is_file()} == FILES
    for name in ("model", "text_model", "vision_model"):
        onnx.checker.check_model(str(layout / "onnx" / f"{name}.onnx"), full_check=True)


def test_equal_inputs_give_equal_embeddings(layout: Path, demo_bundle: Path) -> None:
    """Of every graph; rows are padded with the end token, and the longest is cut without one, as transformers.js does."""
    data = load_parity_data(None, 5, 7)
    texts = [*data.captions, "word " * 100]
    with engines.load(demo_bundle) as clip:
        pixels, ids = np.stack([clip.preprocess(image) for image in data.images]), clip.tokenize(texts).astype(np.int64)
        images, captions = clip.encode_image(pixels), clip.encode_text(texts)
        scale = clip.manifest.model.logit_scale
        values = normalize_pixels(pixels, clip.manifest.preprocess)
    for row in ids:
        row[int(row.argmax()) :] = 49407
    ids[-1, -1] = ids[-1, -2]
    whole = run(layout / "onnx" / "model.onnx", input_ids=ids, pixel_values=values)
    assert list(whole) == ["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"]
    text = run(layout / "onnx" / "text_model.onnx", input_ids=ids)["text_embeds"]
    image = run(layout / "onnx" / "vision_model.onnx", pixel_values=values)["image_embeds"]
    for found, expected in (
        (whole["text_embeds"], captions),
        (text, captions),
        (whole["image_embeds"], images),
        (image, images),
    ):
        assert np.abs(found - expected).max() <= LIMIT
    assert whole["logits_per_image"].shape == (5, 8)
    assert np.abs(whole["logits_per_image"] - scale * images @ captions.T).max() < 1e-3
    assert np.array_equal(whole["logits_per_text"], whole["logits_per_image"].T)


def test_transformers_reads_tokenizer_processor_and_config(layout: Path, demo_bundle: Path) -> None:
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(layout)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|startoftext|>",
        *["<|endoftext|>"] * 2,
    )
    texts = ["A photo of a dog!", "two  BLUE squares, isn't it?", "caf\u00e9", "word " * 100, "hello!!!"]
    found = tokenizer(texts, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
    with engines.load(demo_bundle) as clip:
        expected = clip.tokenize(texts)
    for row in expected:
        row[int(row.argmax()) :] = 49407
    assert np.array_equal(found, expected)
    config = AutoConfig.from_pretrained(layout)
    assert config.model_type == "clip"
    assert (config.projection_dim, config.vision_config.image_size, config.text_config.eos_token_id) == (64, 64, 49407)
    pixels = AutoImageProcessor.from_pretrained(layout)(load_parity_data(None, 2, 1).images[0], return_tensors="np")
    assert pixels["pixel_values"].shape == (1, 3, 64, 64)


def test_the_card_has_what_was_measured(layout: Path, demo_bundle: Path, manifest: Manifest) -> None:
    card = (layout / "README.md").read_text()
    measured = measure(demo_bundle, manifest, layout)
    assert max(measured.proof.image, measured.proof.text) <= LIMIT
    prompts, hard = measured.texts
    assert (prompts.count, prompts.equal, round(prompts.min_cosine, 6)) == (64, 64, 1)
    assert hard.equal < hard.count
    assert hard.min_cosine < 0.99  # wrong decodings and entities are not repaired: the card must not say that they are
    assert len(measured.pictures) == 2
    for item in (*measured.texts, *measured.pictures):
        assert f"| {item.equal} | {item.min_cosine:.6f} | {item.mean_cosine:.6f} |" in card, item.what
    assert any(item.equal > 16 for item in measured.pictures)  # the one on Pillow resizes as open_clip does
    assert "transformers.js was not measured" in card


def test_a_graph_that_computes_something_else_is_refused(
    layout: Path, demo_bundle: Path, manifest: Manifest, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(layout, tmp_path / "copy"))
    for name, tower in (("vision_model", "image"), ("text_model", "text")):
        path = copy / "onnx" / f"{name}.onnx"
        model = onnx.load(path)
        weight = next(item for item in model.graph.initializer if len(item.dims) == 1 and item.data_type == 1)
        weight.raw_data = (np.frombuffer(weight.raw_data, np.float32) + np.float32(0.01)).tobytes()
        onnx.save(model, path)
        with pytest.raises(ExportError, match=f"the {tower} tower of demo in the layout differs from the bundle"):
            measure(demo_bundle, manifest, copy)
        shutil.copyfile(layout / "onnx" / f"{name}.onnx", path)


def test_large_weights_lie_beside_the_graphs(demo_bundle: Path, tmp_path: Path) -> None:
    """Graphs whose weights are larger than the limit have them in a file, whose graph config.json names for transformers.js."""
    write_layout([demo_bundle], tmp_path / "out", inline_bytes=5_000_000)
    names = {path.name for path in (tmp_path / "out" / "onnx").iterdir()}
    assert {"model.onnx_data", "text_model.onnx_data"} <= names
    assert "vision_model.onnx_data" not in names
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["transformers.js_config"] == {"use_external_data_format": {"text_model.onnx": 1, "model.onnx": 1}}
    assert "model.onnx`" in (tmp_path / "out" / "README.md").read_text()


def replaced(part: str, **fields: Any) -> Callable[[Manifest], Manifest]:
    return lambda manifest: msgspec.structs.replace(
        manifest, **{part: msgspec.structs.replace(getattr(manifest, part), **fields)}
    )


def text_rule(**fields: Any) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        text = manifest.towers["text"]
        tower = msgspec.structs.replace(text, length=msgspec.structs.replace(text.length, **fields))
        return msgspec.structs.replace(manifest, towers={**manifest.towers, "text": tower})

    return change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param(
            replaced("model", logit_bias=-10.0, name="ViT-B-16-SigLIP"), "ViT-B-16-SigLIP .*logit bias", id="siglip"
        ),
        pytest.param(text_rule(keep="padding", extra=1), r"demo .*reads the padding of a row", id="coca"),
        pytest.param(text_rule(keep="fixed"), r"reads the padding of a row \(rule 'fixed'\)", id="roberta"),
        pytest.param(replaced("tokenizer", clean="canonicalize"), "canonicalize", id="cleaning"),
        pytest.param(replaced("tokenizer", last_id=1), "after the padding", id="clips"),
        pytest.param(replaced("preprocess", resize_mode="longest"), "padded to a square", id="longest"),
        pytest.param(replaced("preprocess", size=(64, 96)), "64 x 96 pixels is no square", id="oblong"),
        pytest.param(
            lambda manifest: msgspec.structs.replace(manifest, precision="bf16"), "no file name for bf16", id="bf16"
        ),
        pytest.param(
            lambda manifest: msgspec.structs.replace(manifest, engines=()), "--engine onnxruntime", id="engine"
        ),
    ],
)
def test_models_without_a_class_are_refused_by_name(
    change: Callable[[Manifest], Manifest], words: str, manifest: Manifest
) -> None:
    check_supported(manifest)
    with pytest.raises(ExportError, match=words) as refusal:
        check_supported(change(manifest))
    assert "\n" not in str(refusal.value)


def test_squashed_pictures_are_supported(manifest: Manifest) -> None:
    check_supported(replaced("preprocess", resize_mode="squash", size=(64, 96))(manifest))


def test_another_tokenizer_is_refused_and_nothing_is_left(bundle_copy: Path, tmp_path: Path, capfd: Any) -> None:
    from edited_bundles import relist

    path = bundle_copy / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["end_of_word_suffix"] = None
    path.write_text(json.dumps(data))
    relist(bundle_copy, ["tokenizer.json"])
    assert main([str(bundle_copy), "--out", str(tmp_path / "out")]) == 1
    assert "CLIPTokenizerFast cannot express it" in capfd.readouterr().err
    assert [item.name for item in tmp_path.iterdir()] == ["copy"]


def test_a_link_is_no_place_for_a_layout(demo_bundle: Path, tmp_path: Path, capfd: Any) -> None:
    """The rename at the end would fail there, after all the work; a link to nothing is refused, too."""
    (tmp_path / "there").mkdir()
    for target in ("there", "nowhere"):
        link = tmp_path / f"link to {target}"
        link.symlink_to(target)
        assert main([str(demo_bundle), "--out", str(link), "--force"]) == 1
        assert "is a link: name the folder it leads to" in capfd.readouterr().err


def test_the_layout_of_a_bundle_in_this_folder_is_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert layout_folder(Path("."), "transformers", False) == tmp_path / "here--transformers"


def test_bundles_of_two_models_or_of_one_precision(demo_bundle: Path, bundle_copy: Path, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="are both in fp32"):
        write_layout([demo_bundle, bundle_copy], tmp_path / "out")

    def other(data: Any) -> None:
        data["precision"] = "fp16"
        data["model"]["weights"] = "0" * 64

    edit_manifest(bundle_copy, other)
    with pytest.raises(ExportError, match="are of different models"):
        write_layout([demo_bundle, bundle_copy], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_there_stays(layout: Path, demo_bundle: Path, tmp_path: Path, capfd: Any) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "photo.png").write_bytes(b"")
    (tmp_path / "file").write_text("text")
    copy = Path(shutil.copytree(layout, tmp_path / "layout"))
    for name, words in (("mine", "is no layout"), ("file", "is a file"), ("layout", "pass --force")):
        assert main([str(demo_bundle), "--out", str(tmp_path / name)]) == 1
        assert words in capfd.readouterr().err
    assert main([str(demo_bundle), "--out", str(tmp_path / "mine"), "--force"]) == 1
    assert (tmp_path / "mine" / "photo.png").exists()
    (copy / "config.json").write_text("{}")
    assert main([str(demo_bundle), "--out", str(copy), "--force"]) == 0
    assert json.loads((copy / "config.json").read_text())["model_type"] == "clip"


def test_what_is_no_bundle(tmp_path: Path, capfd: Any) -> None:
    assert main([str(tmp_path / "nothing"), "--out", str(tmp_path / "out")]) == 1
    assert "is not there" in capfd.readouterr().err


def test_the_option_of_an_export_is_checked_first(tmp_path: Path, capfd: Any) -> None:
    from exporter.__main__ import main as export

    line = ["demo", "--layout", "transformers", "--out", str(tmp_path / "out")]
    for more, words in ((["--bf16"], "no file name for bf16"), (["--towers", "image"], "needs both towers")):
        assert export([*line, *more]) == 1
        assert words in capfd.readouterr().err
    (tmp_path / "out--transformers").write_text("mine")
    assert export(line) == 1
    assert "is a file" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_an_export_in_fp16_with_its_layout(tmp_path: Path, capfd: Any) -> None:
    from exporter.__main__ import main as export

    out = tmp_path / "out"
    line = ["demo", "--fp16", "--layout", "transformers", "--out", str(out), "--parity-samples", "8", "--json"]
    assert export([*line, "--engine", "onnxruntime"]) == 0
    printed = capfd.readouterr()
    assert json.loads(printed.out)["layout"] == f"{out}--transformers"
    assert "there is no onnx/model.onnx" in printed.err
    assert 'file_name="model_fp16.onnx"' in printed.err
    graphs = {path.name for path in Path(f"{out}--transformers", "onnx").iterdir()}
    assert graphs == {"model_fp16.onnx", "text_model_fp16.onnx", "vision_model_fp16.onnx"}
