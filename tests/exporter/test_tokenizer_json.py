"""tokenizer.json against open_clip's tokenizers: the same ids for any text."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from benchmarks.workloads.offline_text_towers import write_text_tower
from engines.inputs.tokenizer import TextTokenizer
from exporter.errors import ExportError
from exporter.source.tokenizer_json import check_tokenizer, write_tokenizer

CORPUS = (
    "a photo of a dog. a drawing of two cats on a mat. the quick brown fox jumps over the lazy dog.",
    "un chien dans la neige; ein Hund im Schnee; собака на снегу; 雪の中の犬; كلب في الثلج",
    "red circle above three blue squares, 0123456789 !?&()[]<>@#$%",
)
BERT_SPECIALS = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
PIECES = st.one_of(
    st.text(st.characters(), max_size=12),  # surrogates included
    st.sampled_from(
        [
            " ",
            "'s",
            "'ſ",
            "'LL",
            "don't",
            "!",
            "_",
            "12",
            "½",
            "a photo of a dog",
            "\u0345",
            "İ",
            "ΣΑΣ",
            "&amp;lt;",
            "&#39;s",
            "<start_of_text>",
            "<END_of_text>",
            "<ſtart_of_text>",
            "<end_of_text>",
            "<end",
            "_of_text>",
            "[SEP]",
            "[MASK]",
            "</s>",
            "<pad>",
            "<mask>",
            "👩‍👩‍👧",
            "собака",
            "雪の中",
            "Ã©",
            "\x00",
            "\x1c",
            "\u200d",
            "\t\n",
        ]
    ),
)
TEXTS = st.lists(PIECES, max_size=12).map("".join) | st.lists(PIECES, min_size=30, max_size=90).map(" ".join)


def saved(folder: Path, tokenizer: Tokenizer, **options: Any) -> str:
    """A folder that `AutoTokenizer.from_pretrained` reads, as a hub's snapshot is."""
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **options).save_pretrained(folder)
    return str(folder)


def word_piece(folder: Path, **options: Any) -> str:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = list(BERT_SPECIALS.values())
    tokenizer.train_from_iterator(
        CORPUS, trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials, show_progress=False)
    )
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return saved(folder, tokenizer, **BERT_SPECIALS, **options)


def unigram(folder: Path) -> str:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace("  ", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=120, special_tokens=["<pad>", "</s>", "<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return saved(folder, tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def siglip(folder: Path) -> SigLipTokenizer:
    """Its constructor wants a sentencepiece file; everything that it does with a text is in `__call__`."""
    unigram(folder)
    vocab = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    tokenizer = SigLipTokenizer.__new__(SigLipTokenizer)
    # As T5's, which SigLIP's is; the class of that name takes no vocabulary before transformers 5.
    t5 = Tokenizer(models.Unigram([(piece, score) for piece, score in vocab], unk_id=2, byte_fallback=False))
    t5.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    t5.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=t5, pad_token="</s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.context_length = 64
    return tokenizer


def bert(folder: Path, saved_with: dict[str, Any] | None = None, **options: Any) -> HFTokenizer:
    return HFTokenizer(word_piece(folder, **(saved_with or {})), **options)


CLIPS = {"bos_token": "[CLS]", "eos_token": "[SEP]"}
LEFT = {"padding_side": "left", "truncation_side": "left"}
KINDS: dict[str, Callable[[Path], Any]] = {
    "simple": lambda _: SimpleTokenizer(),
    "simple coca": lambda _: SimpleTokenizer(context_length=76),
    "simple short canonicalize": lambda _: SimpleTokenizer(context_length=8, clean="canonicalize"),
    "byte bpe": lambda folder: HFTokenizer(str(write_text_tower("roberta-base", folder))),
    "word piece": partial(bert, clean="lower"),
    "word piece strip": partial(bert, context_length=32, strip_sep_token=True),
    "word piece clips": partial(bert, saved_with=CLIPS, context_length=20, tokenizer_mode="clips"),
    "word piece left": partial(bert, saved_with=LEFT, context_length=16),
    "unigram siglip": lambda folder: HFTokenizer(unigram(folder), context_length=64, clean="canonicalize"),
    "siglip": siglip,
}
Convert = Callable[[str], tuple[Any, TextTokenizer]]


@pytest.fixture(scope="module")
def convert(tmp_path_factory: pytest.TempPathFactory) -> Convert:
    """Kind -> open_clip's tokenizer, and the serving one of the file written from it."""

    @cache
    def converted(kind: str) -> tuple[Any, TextTokenizer]:
        folder = tmp_path_factory.mktemp("tokenizer")
        original = KINDS[kind](folder / "source")
        text_config = {} if "simple" in kind else {"hf_model_name": "x"}
        config = write_tokenizer(original, text_config, folder / "tokenizer.json")
        return original, TextTokenizer(folder / "tokenizer.json", config)

    return converted


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXTS, min_size=1, max_size=4))
@example(texts=["", " ", "\x00"])
@example(texts=["a" * 3000, "! " * 3000, "<end_of_text>" * 100])
def test_ids_are_open_clips(convert: Convert, kind: str, texts: list[str]) -> None:
    original, tokenizer = convert(kind)
    expected = original(texts).numpy()
    ids = tokenizer(texts)
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, expected)


@settings(max_examples=300, deadline=None)
@given(
    words=st.lists(
        st.text(st.sampled_from("etaoinshrdlucmfwygpbvkxqjz'<_>019.,é😀 "), min_size=1, max_size=30),
        min_size=1,
        max_size=20,
    )
)
def test_merges_run_in_open_clips_order(convert: Convert, words: list[str]) -> None:
    original, tokenizer = convert("simple")
    np.testing.assert_array_equal(tokenizer(words), original(words).numpy())


def test_words_split_alike_at_every_class_boundary(convert: Convert) -> None:
    """Each code point at which one of the split pattern's classes begins or ends, beside every kind of neighbour."""
    original, tokenizer = convert("simple")
    split = Tokenizer.from_str(tokenizer._tokenizer.to_str()).pre_tokenizer
    code_points = "".join(chr(i) for i in range(0x110000) if not 0xD800 <= i < 0xE000)
    classes = (r"\p{L}+", r"\p{N}+", r"[^\s\p{L}\p{N}]+", "[strevmld]+")
    spans = [match.span() for pattern in classes for match in regex.finditer(pattern, code_points, regex.IGNORECASE)]
    edges = sorted({i for first, end in spans for i in (first - 1, first, end - 1, end) if 0 <= i < len(code_points)})
    characters = [code_points[i] for i in edges]
    assert len(characters) > 2500
    text = " ".join(f"{c}a{c}b 1{c}1 !{c}! '{c} 'l{c} <{c}tart_of_text>" for c in characters)
    expected = ["".join(map(original.byte_encoder.get, word.encode())) for word in original.pat.findall(text)]
    assert [word for word, _ in split.pre_tokenize_str(text)] == expected


def test_what_the_manifest_says(convert: Convert) -> None:
    _, simple = convert("simple")
    assert simple.config.context_length == 77
    assert simple.config.vocab_size == 49408
    assert (simple.config.clean, simple.config.pad_id, simple.config.end_id) == ("lower", 0, 49407)
    _, coca = convert("simple coca")
    assert coca.config.context_length == 76
    original, strip = convert("word piece strip")
    assert (strip.config.clean, strip.config.strip_sep_token) == ("whitespace", True)
    assert strip.config.end_id == original.tokenizer.sep_token_id
    assert strip.config.vocab_size == len(original.tokenizer)
    _, byte_bpe = convert("byte bpe")
    assert (byte_bpe.config.pad_id, byte_bpe.config.end_id) == (1, 2)
    original, clips = convert("word piece clips")
    assert clips.config.last_id == original.tokenizer.cls_token_id
    _, siglip_tokenizer = convert("siglip")
    assert (siglip_tokenizer.config.clean, siglip_tokenizer.config.pad_id) == ("canonicalize", 1)


def test_the_file_is_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a.json", "b.json"):
        assert write_tokenizer(SimpleTokenizer(), {}, tmp_path / name).file == name
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()


def test_every_id_of_the_vocabulary_has_a_piece(tmp_path: Path) -> None:
    """tokenizers 0.21 prints a warning to standard output where one has not, in the way of an export's --json."""
    write_tokenizer(SimpleTokenizer(), {}, tmp_path / "tokenizer.json")
    vocab = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    assert sorted(vocab.values()) == list(range(len(vocab)))


def test_the_file_alone_makes_ids_of_cleaned_text(convert: Convert) -> None:
    """As a reader in another language uses it: special tokens, truncation and padding are in the file."""
    original, tokenizer = convert("simple")
    text = "a photo of a dog, isn't it? <end_of_text> 2"
    assert tokenizer._tokenizer.encode(text).ids == original([text])[0].tolist()


def test_a_failed_proof_names_the_text_and_leaves_no_file(tmp_path: Path) -> None:
    class Turning(HFTokenizer):
        """Has a step of its own before everything else: the file format has no place for it."""

        def __call__(self, texts: str | list[str], context_length: int | None = None) -> Any:
            return super().__call__([text[::-1] if "[" in text else text for text in texts], context_length)

    original = Turning(word_piece(tmp_path / "source"))
    with pytest.raises(
        ExportError, match=r"differs from open_clip's tokenizer at \"snake_case .*\[0\].*: id \d+ instead of \d+"
    ):
        write_tokenizer(original, {"hf_model_name": "x"}, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_vocabulary_that_is_larger_than_the_tower_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"id 49407 for '', but the text tower's vocabulary has 1000"):
        write_tokenizer(SimpleTokenizer(), {"vocab_size": 1000}, tmp_path / "tokenizer.json")


def test_another_length_is_named(convert: Convert) -> None:
    _, tokenizer = convert("simple")
    with pytest.raises(ExportError, match=r"shape \(1, 77\), open_clip's tokenizer \(1, 8\)"):
        check_tokenizer(SimpleTokenizer(context_length=8), tokenizer, ["a"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda _: SimpleTokenizer(reduction_mask="random"), "reduction_mask"),
        (lambda _: SimpleTokenizer(additional_special_tokens=["<mask>"]), r"\['<mask>'\]"),
        (lambda _: SimpleTokenizer(clean="whitespace"), "upper case"),
        (lambda _: str.split, "cannot be converted"),
        (partial(bert, tokenizer_mode="clips"), "needs a bos token"),
    ],
)
def test_what_the_format_cannot_express_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=message):
        write_tokenizer(make(tmp_path / "source"), {}, tmp_path / "tokenizer.json")
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_tokenizer_without_padding_is_refused(tmp_path: Path) -> None:
    original = bert(tmp_path / "source")
    original.tokenizer.pad_token = None
    with pytest.raises(ExportError, match="lacks a pad, eos or sep token"):
        write_tokenizer(original, {}, tmp_path / "tokenizer.json")
