"""A bundle inside sentence-transformers: the same embeddings, to the bit, and a copy that is saved, moved and loaded."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sentence_transformers import SentenceTransformer, util

import engines
from engines.errors import EngineError
from engines.sentence_transformers import OpenClipBundle

TEXTS = ["a red circle", "two blue squares above a green triangle", "", "a photo of a dog, isn't it?"]


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    shapes = ((64, 64, 3), (40, 90, 3), (120, 70, 3))
    return [Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8)) for shape in shapes]


@pytest.fixture(scope="module")
def model(demo_bundle: Path) -> SentenceTransformer:
    return SentenceTransformer(modules=[OpenClipBundle(demo_bundle, engine="onnxruntime")], device="cpu")


def test_embeddings_are_those_of_engines(model: SentenceTransformer, demo_bundle: Path) -> None:
    with engines.load(demo_bundle, engine="onnxruntime") as clip:
        np.testing.assert_array_equal(model.encode(TEXTS, batch_size=3), clip.encode_text(TEXTS))
        np.testing.assert_array_equal(model.encode(pictures(), batch_size=2), clip.encode_image(pictures()))
        both = model[0](model[0].preprocess([TEXTS[0], pictures()[1], TEXTS[1]]))["sentence_embedding"].numpy()
        np.testing.assert_array_equal(both[[0, 2]], clip.encode_text(TEXTS[:2]))
        np.testing.assert_array_equal(both[1:2], clip.encode_image(pictures()[1:2]))
    assert model.get_embedding_dimension() == both.shape[1]
    assert model.modalities == ["text", "image"]


def test_what_people_do_with_it(model: SentenceTransformer) -> None:
    """Prompts, similarities, one input alone, tensors, and the library's own search."""
    with_prompt = model.encode(["circle"], prompt="a red ")
    np.testing.assert_array_equal(with_prompt, model.encode(["a red circle"]))
    texts, images = model.encode(TEXTS, convert_to_tensor=True), model.encode(pictures(), convert_to_tensor=True)
    assert model.similarity(texts, images).shape == (4, 3)
    assert model.encode("a red circle").shape == (model.get_embedding_dimension(),)
    hits = util.semantic_search(texts[1:2], texts, top_k=1)
    assert hits[0][0]["corpus_id"] == 1


def test_a_saved_model_can_be_moved_and_loaded(model: SentenceTransformer, tmp_path: Path) -> None:
    model.save_pretrained(str(tmp_path / "saved"), create_model_card=False)
    shutil.move(tmp_path / "saved", tmp_path / "moved")
    loaded = SentenceTransformer(str(tmp_path / "moved"), device="cpu", trust_remote_code=True)
    assert isinstance(loaded[0], OpenClipBundle)
    assert loaded[0].engine == "onnxruntime"
    np.testing.assert_array_equal(loaded.encode(TEXTS), model.encode(TEXTS))
    shutil.rmtree(tmp_path / "moved" / "bundle")
    with pytest.raises(EngineError, match="save_pretrained again"):
        SentenceTransformer(str(tmp_path / "moved"), device="cpu", trust_remote_code=True)
