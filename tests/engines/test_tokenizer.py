"""Cleaning, shapes, threads and errors of the serving tokenizer; its ids are compared in the exporter's tests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

from engines.errors import BundleError, InputError
from engines.inputs.tokenizer import _CLEANERS, TextTokenizer
from exporter.source.tokenizer_json import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> TextTokenizer:
    path = tmp_path_factory.mktemp("bundle") / "tokenizer.json"
    return TextTokenizer(path, write_tokenizer(SimpleTokenizer(), {}, path))


@pytest.fixture(scope="module")
def file(tokenizer: TextTokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("copy") / "tokenizer.json"
    tokenizer._tokenizer.save(str(path))
    return path


@pytest.mark.parametrize("kind", ["lower", "whitespace", "canonicalize"])
@settings(max_examples=300, deadline=None)
@given(text=st.text(st.characters()) | st.text("&amp;lt#39 x_-.'Ã©â€œ\u2019\x85\u3000\x1c\tAİΣ", max_size=60))
@example(text="&amp;amp;lt; &amp;lt;b&amp;gt; __init__ a_b-c ΟΔΟΣ. \ud83d\ude00 \ud800")
@example(text="  doubleâ€™s  ﬁ\u0301 \r\n")
def test_cleaning_is_open_clips(kind: str, text: str) -> None:
    assert _CLEANERS[kind](text) == get_clean_fn(kind)(text)


def test_rows_begin_end_and_are_padded(tokenizer: TextTokenizer) -> None:
    ids = tokenizer(["a photo of a dog", "", "word " * 200])
    assert ids.shape == (3, 77)
    assert ids.dtype == np.int32
    assert ids[:, 0].tolist() == [49406] * 3
    assert ids[0].tolist()[6:9] == [49407, 0, 0]
    assert ids[1].tolist()[1:3] == [49407, 0]
    assert ids[2, -1] == 49407


def test_one_text_is_a_list_of_one(tokenizer: TextTokenizer) -> None:
    np.testing.assert_array_equal(tokenizer("a dog"), tokenizer(["a dog"]))
    np.testing.assert_array_equal(tokenizer(("a dog", "b")), tokenizer(["a dog", "b"]))


def test_threads_share_one(tokenizer: TextTokenizer) -> None:
    batches = [[f"caption {i} number {j} 🐶" for j in range(i % 7 + 1)] for i in range(200)]
    expected = [tokenizer(batch) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        for one, other in zip(expected, pool.map(tokenizer, batches), strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "texts is empty"),
        ((), "texts is empty"),
        (None, "must be a list of str, not NoneType"),
        (5, "must be a list of str, not int"),
        (b"bytes", "must be a list of str, not bytes"),
        ({"a": 1}, "must be a list of str, not dict"),
        (["a", None], r"texts\[1\] is a NoneType"),
        ([b"a"], r"texts\[0\] is a bytes"),
        ([["a"]], r"texts\[0\] is a list"),
    ],
)
def test_wrong_input_is_named(tokenizer: TextTokenizer, texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizer(texts)


def test_a_missing_or_damaged_file_is_named(tokenizer: TextTokenizer, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.json"
    damaged.write_text('{"version": "1.0"')
    with pytest.raises(BundleError, match=r"damaged\.json: not a readable tokenizer file"):
        TextTokenizer(damaged, tokenizer.config)
    with pytest.raises(BundleError, match=r"nothing\.json: the tokenizer file is missing"):
        TextTokenizer(tmp_path / "nothing.json", tokenizer.config)


def test_a_file_of_another_length_is_named(tokenizer: TextTokenizer, file: Path) -> None:
    config = msgspec.structs.replace(tokenizer.config, context_length=64)
    with pytest.raises(BundleError, match=r"truncates to 77 and pads to 77 ids, .* context length 64 needs 64"):
        TextTokenizer(file, config)
