"""engines.sentence_transformers: a bundle in a real `SentenceTransformer`, equal to `engines` to the bit."""

from __future__ import annotations

import copy
import json
import pickle
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hub_server import hub_environment, running_hub
from made_pictures import picture

import engines
from engines.errors import BundleError, ImageError, InputError

pytest.importorskip("sentence_transformers", reason="pip install 'openclip-engines[sentence-transformers]'")

ROOT = Path(__file__).parents[2]
TEXTS = [
    "a red circle",
    "Two  BLUE squares",
    "caf\u00e9 &amp; bar",
    "word " * 200,
    *(f"picture {i}" for i in range(40)),
]


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    from engines.sentence_transformers import OpenClipBundle

    return SentenceTransformer(modules=[OpenClipBundle(demo_bundle)], device="cpu")


@pytest.fixture(scope="module")
def clip(demo_bundle: Path) -> Iterator[engines.Embedder]:
    with engines.load(demo_bundle) as opened:
        yield opened


def test_texts(model: Any, clip: engines.Embedder) -> None:
    assert np.array_equal(model.encode(TEXTS), clip.encode_text(TEXTS))
    assert np.array_equal(model.encode("a red circle"), clip.encode_text(["a red circle"])[0])
    assert np.array_equal(model.encode(["circle"], prompt="a red "), clip.encode_text(["a red circle"]))
    assert model.encode(TEXTS, convert_to_tensor=True).shape == (len(TEXTS), 64)


def test_images_of_every_kind(model: Any, clip: engines.Embedder, tmp_path: Path) -> None:
    pictures = [picture(index) for index in range(35)]
    expected = clip.encode_image(pictures)
    assert np.array_equal(model.encode(pictures), expected)
    assert np.array_equal(
        model.encode([np.asarray(pictures[0].convert("RGB"))]), clip.encode_image([pictures[0].convert("RGB")])
    )
    pictures[1].save(tmp_path / "one.png")
    assert np.array_equal(model.encode([str(tmp_path / "one.png")]), expected[1:2])


def test_facts_and_similarity(model: Any, clip: engines.Embedder) -> None:
    assert model.get_embedding_dimension() == 64
    assert model.max_seq_length == 77
    assert model.modalities == ["text", "image"]
    images, texts = clip.encode_image([picture(1), picture(2)]), clip.encode_text(TEXTS[:3])
    found = model.similarity(model.encode([picture(1), picture(2)]), model.encode(TEXTS[:3]))
    assert np.abs(found.numpy() - images @ texts.T).max() < 1e-6


def test_saved_and_loaded_again(model: Any, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from engines.sentence_transformers import OpenClipBundle

    model.save_pretrained(str(tmp_path / "saved"))
    with pytest.raises(ValueError, match="trust_remote_code"):
        SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    again = SentenceTransformer(str(tmp_path / "saved"), device="cpu", trust_remote_code=True)
    assert isinstance(again[0], OpenClipBundle)
    assert np.array_equal(again.encode(TEXTS), model.encode(TEXTS))
    assert np.array_equal(again.encode([picture(1)]), model.encode([picture(1)]))
    assert engines.load(tmp_path / "saved" / "0_OpenClipBundle").manifest == model[0].clip.manifest


def test_a_bundle_with_one_tower(normalized_image_bundle: Path) -> None:
    from sentence_transformers import SentenceTransformer

    from engines.sentence_transformers import OpenClipBundle

    model = SentenceTransformer(modules=[OpenClipBundle(normalized_image_bundle)], device="cpu")
    assert model.max_seq_length is None
    with pytest.raises(InputError, match="no text tower is loaded"):
        model.max_seq_length = 5
    assert model.modalities == ["image"]
    with engines.load(normalized_image_bundle) as clip:
        assert np.array_equal(model.encode([picture(3)]), clip.encode_image([picture(3)]))
    with pytest.raises(ValueError, match="text"):
        model.encode(["a red circle"])


def test_wrong_inputs(model: Any, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"broken\.png"):
        model.encode([str(tmp_path / "broken.png")])
    for link in ("https://example.org/a.png", "data:image/png;base64,AAAA"):
        with pytest.raises(InputError, match="is a link"):
            model.encode([link])
    with pytest.raises(InputError, match="texts or images"):
        model[0].preprocess(["a text", picture(1)])
    with pytest.raises(InputError, match="no such file"):
        model.encode(["nowhere/cat.JPG"])
    for pair in (("a", "b"), ["a", "b"]):
        with pytest.raises(InputError, match="pass a text"):
            model[0].preprocess([pair])


def test_inputs_in_dictionaries_of_one_kind(model: Any) -> None:
    assert np.array_equal(model.encode([{"text": "a red circle"}]), model.encode(["a red circle"]))
    assert np.array_equal(model.encode([{"image": picture(1)}]), model.encode([picture(1)]))
    assert model.encode(["I saw cat.jpg today"]).shape == (1, 64)


def test_the_key_of_a_dictionary_decides(model: Any, clip: engines.Embedder, tmp_path: Path) -> None:
    picture(1).save(tmp_path / "one.png")
    shutil.copyfile(tmp_path / "one.png", tmp_path / "no_suffix")
    texts = ["cat.jpg", "https://example.org/a.png", "data:image/png;base64,AAAA", str(tmp_path / "one.png"), "a.mp3"]
    assert np.array_equal(model.encode([{"text": text} for text in texts]), clip.encode_text(texts))
    assert np.array_equal(model.encode([{"text": "cat.jpg"}], prompt="a "), clip.encode_text(["a cat.jpg"]))
    images = [{"image": str(tmp_path / "no_suffix")}, {"image": tmp_path / "one.png"}, {"image": picture(1)}]
    assert np.array_equal(model.encode(images), clip.encode_image([tmp_path / "one.png"] * 2 + [picture(1)]))


@pytest.mark.parametrize(
    ("item", "why"),
    [
        ({"image": "missing/cat"}, "'missing/cat', and there is no such file"),
        ({"image": "a red circle"}, "no such file"),
        ({"image": ""}, "no such file"),
        ({"image": "zero\0byte"}, "no such file"),
        ({"image": "."}, "no such file"),
        ({"image": "https://example.org/cat"}, "is a link"),
        ({"image": "data:image/png;base64,AAAA"}, "is a link"),
        ({"image": 7}, "cannot read an image from a int"),
        ({"text": 7}, "is of type int: pass a str"),
        ({"text": None}, "is of type NoneType: pass a str"),
        ({"text": ("a", "b")}, "is of type tuple: pass a str"),
        ({"text": np.zeros((4, 4, 3), np.uint8)}, "is of type ndarray: pass a str"),
        ({"text": "a", "image": "b"}, "is of type dict: pass a text"),
    ],
)
def test_wrong_values_of_a_key(model: Any, item: Any, why: str) -> None:
    with pytest.raises(InputError, match=why):
        model[0].preprocess([item])


def test_keys_of_both_kinds_are_not_one_batch(model: Any) -> None:
    with pytest.raises(InputError, match="each kind in a call of its own"):
        model[0].preprocess([{"text": "cat.jpg"}, {"image": picture(1)}])


def test_a_bundle_that_was_removed_is_not_saved(demo_bundle: Path, tmp_path: Path) -> None:
    from engines.sentence_transformers import OpenClipBundle

    folder = Path(shutil.copytree(demo_bundle, tmp_path / "copy"))
    module = OpenClipBundle(folder)
    shutil.rmtree(folder)
    with pytest.raises(BundleError, match="is not there"):
        module.save(str(tmp_path / "saved"))


def test_the_length_of_rows_belongs_to_the_bundle(model: Any) -> None:
    model.max_seq_length = 77
    with pytest.raises(InputError, match="is 77 and cannot become 16"):
        model.max_seq_length = 16
    assert model.max_seq_length == 77


def test_copies_open_the_bundle_anew(model: Any) -> None:
    expected = model.encode(TEXTS[:3])
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other[0].clip is not model[0].clip
        assert other[0].training == model[0].training
        assert np.array_equal(other.encode(TEXTS[:3]), expected)


def test_a_shallow_copy_has_the_same_engines_and_other_attributes(model: Any) -> None:
    other = copy.copy(model[0])
    assert other.clip is model[0].clip
    other.note = 1
    assert not hasattr(model[0], "note")


@pytest.mark.long
def test_a_pool_of_processes(model: Any) -> None:
    pool = model.start_multi_process_pool(["cpu"])
    try:
        found = model.encode(TEXTS, pool=pool)
    finally:
        model.stop_multi_process_pool(pool)
    assert np.array_equal(found, model.encode(TEXTS))


def test_a_bundle_from_the_hub(demo_bundle: Path, tmp_path: Path) -> None:
    code = (
        "from engines.sentence_transformers import OpenClipBundle as B; from sentence_transformers import SentenceTransformer\n"
        "print(SentenceTransformer(modules=[B('hf:org/demo')], device='cpu').encode('a red circle').tolist())"
    )
    with running_hub() as server:
        server.add("org/demo", demo_bundle)
        environment = hub_environment(server.url, tmp_path)
        ran = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
    with engines.load(demo_bundle) as clip:
        assert json.loads(ran.stdout) == clip.encode_text(["a red circle"])[0].tolist()


def test_without_the_library_one_sentence_says_what_to_install() -> None:
    code = "import sys; sys.modules['sentence_transformers'] = None\nimport engines.sentence_transformers"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert "pip install 'openclip-engines[sentence-transformers]'" in ran.stderr.splitlines()[-1]


def test_a_bundle_that_lacks_files_is_not_saved_in_part(bundle_copy: Path, tmp_path: Path) -> None:
    from engines.sentence_transformers import OpenClipBundle

    module = OpenClipBundle(bundle_copy, engine="onnxruntime")
    module.save(str(bundle_copy))  # onto itself: nothing to do
    (bundle_copy / "reference.npz").unlink()
    with pytest.raises(BundleError, match=r"lacks reference\.npz"):
        module.save(str(tmp_path / "saved"))
    assert not (tmp_path / "saved").exists()


def test_a_relative_folder_is_found_from_another_one(
    bundle_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(bundle_copy.parent)
    from engines.sentence_transformers import OpenClipBundle

    module = OpenClipBundle(bundle_copy.name, engine="onnxruntime")
    monkeypatch.chdir(tmp_path.parent)
    module.save(str(tmp_path / "saved"))
    assert (tmp_path / "saved" / "manifest.json").is_file()
