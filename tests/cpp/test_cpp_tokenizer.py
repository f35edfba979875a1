"""The C++ library's token ids equal those of the Python runtime for every text."""

from __future__ import annotations

import functools
import json
import random
import shutil
import time
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ftfy.bad_codecs  # registers the sloppy encodings  # noqa: F401
import numpy as np
import pytest
from cpp_library import CppLibrary
from edited_bundles import edit_manifest, relist
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.errors import BundleError, EngineUnavailableError
from engines.inputs.tokenizer import TextTokenizer
from engines.manifest import read_manifest
from exporter.source.tokenizer_json import _SAMPLES

pytestmark = pytest.mark.skipif(
    unicodedata.unidata_version != "14.0.0",
    reason=f"the C++ library has the Unicode data 14.0.0, this Python {unicodedata.unidata_version}",
)

_ENCODINGS = (
    "latin-1",
    "sloppy-windows-1252",
    "sloppy-windows-1251",
    "sloppy-windows-1250",
    "sloppy-windows-1253",
    "sloppy-windows-1254",
    "sloppy-windows-1257",
    "iso-8859-2",
    "macroman",
    "cp437",
)
_HARD = (
    *_SAMPLES,
    "<start_of_text>",
    "a <end_of_text> b",
    "!<end_of_text>!",
    "a<start_of_text>b<start_of_text>",
    "L&AMP;AMP;ATILDE;&AMP;AMP;SUP3;PEZ &szlig; &SZLIG; &notit; &not &#0; &#x80; &#13; &#59; &amp;#59; &#xFDD0;",
    "&lt;p&gt;first line\n&lt;p&gt;<b>second &eacute;\n&EACUTE; third &amp;eacute;",
    "âœ” No problems; The Mona Lisa doesnâ€™t have eyebrows. l’humanitÃ© Ã\xa0 perturber la rÃ©flexion",
    "voilÃ le travail, Ã quele, Ã quela, Ã s , Ã  la mode",
    "â€œ like this â€\ufffd and â€œ that â€? \x1a",
    "e\u0301\u0327 q\u0307\u0323 \u1e9b\u0323 ſt ﬆ ﬀ ﬃ ŉ ǅ ＬＯＵＤ　ＮＯＩＳＥＳ ﾊﾝｶｸ ｶﾅ ￣",
    "Σ ΣΑΣ ΑΣ. ΑΣ\u0301 Σ'Σ Α\u00adΣ\u00adΑ Α\u00adΣ\u00ad",
    "İ\u0130\u0131 I i ẞ",
    "\u3042\u3099 \u304b\u3099 नि षि \u0e33\u0e4d\u0e32 \u1112\u1161\u11ab\u11ab \ud55c\u11a8",
    "\x1b[1;31mred\x1b[0m \x1b[٣m \x1b[ \x1b[1;",
    "a\r\n\rb\x85c\u2028d\u2029e\x0bf\x0cg\x1ch\x1fi",
    # ftfy's codec utf-8-variants, whose expressions take a line feed at the end for the end
    "Ã©À\x80 Ã©À\n",
    "Ã©í\xa0½í¸\x80 Ã©í\xa0½í²\n",
    "Ã©í\xa0\n",
    "Ã©À",
)
_INVALID = (
    b"\xff",
    b"caf\xe9",
    b"\xc3",
    b"\xe2\x82",
    b"\xe2\x82A",
    b"\xed\xa0\xbd\xed\xb8\x80",
    b"\xf4\x90\x80\x80",
    b"\xf0\x8f\xbf\xbf \xe0\x9f\xbf \xc1\xbf",
    "schÃ¶n ".encode() + b"\xff" + "schÃ¶n\n schÃ¶n".encode(),
    b"\xc5\x93\xff",  # one of ftfy's negated classes, which holds surrogates
    b"\xd0\x93\xd1\x9e\xd0\x92\xd0\x82\xd0\x92\x80a",
    b"a\x00b\xfe\xff",
)


@pytest.fixture(scope="module", params=["lower", "whitespace", "canonicalize"])
def tokenizers(
    request: pytest.FixtureRequest, cpp: CppLibrary, demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Any:
    """Both tokenizers with each kind of cleaning."""
    folder = tmp_path_factory.mktemp("tokenizer") / "bundle"
    shutil.copytree(demo_bundle, folder)
    edit_manifest(folder, lambda data: data["tokenizer"].update(clean=request.param))
    config = read_manifest(folder).tokenizer
    assert config is not None
    with cpp.open(folder, engine="none") as clip:
        yield TextTokenizer(folder / config.file, config), clip.tokenize


def _compare(tokenizers: Any, texts: Sequence[str | bytes]) -> None:
    python, library = tokenizers
    expected = python([text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text for text in texts])
    ids = library([text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape") for text in texts])
    wrong = np.flatnonzero((expected != ids).any(axis=1))
    assert not len(wrong), f"{len(wrong)} of {len(texts)} differ, the first is {texts[wrong[0]]!a}"


def _without_surrogates(texts: Sequence[str]) -> list[str]:
    return [text.encode("utf-8", "ignore").decode() for text in texts]


def _mojibake(text: str, encoding: str) -> str:
    return text.encode("utf-8").decode(encoding, "replace")


@functools.cache
def _random_texts() -> list[str]:
    blocks = ((0, 0x530), (0x590, 0x700), (0x900, 0xA00), (0xE00, 0xE80), (0x1100, 0x1200), (0x1E00, 0x2200))
    blocks += (
        (0x2500, 0x2800),
        (0x3000, 0x3100),
        (0x4E00, 0x4F00),
        (0xAC00, 0xAD00),
        (0xF900, 0xFB10),
        (0xFE00, 0x10000),
    )
    pool = [chr(c) for block in (*blocks, (0x1D400, 0x1D500), (0x1F300, 0x1F700)) for c in range(*block)]
    clues = [*map(chr, range(0x80, 0x180)), *"€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ\ufffd\x1a \n?", "Ã", "Â", "â€"]
    pieces = [
        "&amp;",
        "&lt;",
        "&EACUTE;",
        "&#65",
        "&notit;",
        "<",
        "\r\n",
        "\x1b[31m",
        "ΑΣ",
        "À\n",
        "Ã©",
        "Ã ",
        "&",
        ";",
        "#",
    ]
    chance = random.Random(0)

    def text() -> str:
        kind = chance.random()
        if kind < 0.4:
            words = "abcdefghij '<>_se "
            return "".join(
                chance.choice(pool if chance.random() < 0.5 else words) for _ in range(chance.randint(0, 40))
            )
        if kind < 0.6:
            return "".join(chance.choices(clues, k=chance.randint(0, 14)))
        if kind < 0.8:
            return "".join(
                chance.choice(pieces if chance.random() < 0.7 else clues) for _ in range(chance.randint(0, 9))
            )
        return _mojibake("".join(chance.choices(pool, k=chance.randint(0, 12))), chance.choice(_ENCODINGS))

    return [text() for _ in range(20_000)]


def test_hard_texts(tokenizers: Any) -> None:
    _compare(tokenizers, _without_surrogates(_HARD))


def test_random_texts(tokenizers: Any) -> None:
    step = 1 if tokenizers[0].config.clean == "lower" else 10
    _compare(tokenizers, _random_texts()[::step])


def test_mojibake(tokenizers: Any) -> None:
    texts = [text[:200] for text in _without_surrogates(_HARD)]
    once = [_mojibake(text, encoding) for text in texts for encoding in _ENCODINGS]
    twice = [_mojibake(text, "sloppy-windows-1252") for text in once[::3]]
    _compare(
        tokenizers, [*once, *twice, *(text.replace("\xa0", " ") for text in once), *(f"🐶 é {t}\n" for t in once[::2])]
    )


def test_every_assigned_code_point(tokenizers: Any) -> None:
    if tokenizers[0].config.clean != "lower":
        pytest.skip("once is enough")
    named = [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE1000)]
    points = [chr(c) for c in (*named, *range(0x40000, 0xE0000, 97), *range(0xE1000, 0x110000, 97), 0x10FFFF)]
    rows = [points[at : at + 16] for at in range(0, len(points), 16)]
    _compare(tokenizers, [f"{' '.join(row[:8])}a{''.join(row[8:])}" for row in rows])


def test_invalid_utf8(tokenizers: Any) -> None:
    chance = random.Random(1)
    texts = [*_INVALID]
    for text in _random_texts()[::20]:
        data = bytearray(text.encode())
        for _ in range(3):
            at = chance.randint(0, len(data))
            data[at : at + chance.randint(0, 1)] = bytes([chance.choice([chance.randrange(256), 0xED, 0xC3, 0xA0])])
        texts.append(bytes(data))
    texts += [bytes(chance.choices(range(128, 256), k=chance.randint(1, 8))) for _ in range(500)]
    _compare(tokenizers, texts)


@settings(max_examples=150, deadline=None)
@given(text=st.text(st.characters(exclude_categories=("Cs",))))
def test_any_text(tokenizers: Any, text: str) -> None:
    _compare(tokenizers, [text])


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=64))
def test_any_bytes(tokenizers: Any, data: bytes) -> None:
    _compare(tokenizers, [data])


@pytest.mark.parametrize(
    "text",
    [
        "ab" * 500_000,
        "собака на снегу " * 62_500,
        "schÃ¶n â€œquotedâ€\x9d " * 45_000,
    ],
    ids=["one word", "Cyrillic", "mojibake"],
)
def test_a_million_characters(tokenizers: Any, text: str) -> None:
    if tokenizers[0].config.clean != "lower":
        pytest.skip("once is enough")
    start = time.perf_counter()
    tokenizers[1]([text.encode()])
    assert time.perf_counter() - start < 20  # under a second without sanitizers; what is quadratic needs hours
    _compare(tokenizers, [text])


def test_segments_of_a_million_characters(tokenizers: Any) -> None:
    if tokenizers[0].config.clean != "lower":
        pytest.skip("once is enough")
    # The first segment ends inside the mojibake, so neither half is repaired.
    _compare(tokenizers, [" " * (1_000_000 - 1) + "Ã©Ã© schÃ¶n", " " * 1_000_000 + "Ã©Ã© schÃ¶n"])


def test_combining_characters_are_not_sorted_slowly(tokenizers: Any) -> None:
    start = time.perf_counter()
    tokenizers[1](["a" + "\u0301\u0327" * 250_000])  # Python needs minutes
    assert time.perf_counter() - start < 20


@functools.cache
def _small(content: bytes) -> str:
    """The tokenizer file with a vocabulary of a few names, for tests that do not encode."""
    data = json.loads(content)
    vocab = list(data["model"]["vocab"].items())
    data["model"].update(vocab=dict(vocab[:20]), merges=[])
    return json.dumps(data)


@pytest.fixture
def edited(cpp: CppLibrary, demo_bundle: Path, tmp_path: Path) -> Callable[..., Any]:
    """A function that opens a bundle whose tokenizer file, or manifest's `tokenizer`, was changed."""

    def opened(change: Callable[[Any], object] | bytes | None = None, small: bool = False, **fields: Any) -> Any:
        folder = tmp_path / "bundle"
        shutil.copytree(demo_bundle, folder)
        path = folder / "tokenizer.json"
        if change is not None:
            content = path.read_bytes()
            path.unlink()
            if isinstance(change, bytes):
                path.write_bytes(change)
            else:
                data = json.loads(_small(content) if small else content)
                change(data)
                path.write_text(json.dumps(data), encoding="utf-8")
            relist(folder, ["tokenizer.json"])
        if fields:
            edit_manifest(folder, lambda data: data["tokenizer"].update(fields))
        return cpp.open(folder, engine="none"), folder

    return opened


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["model"].update(type="Unigram"), "tokenizers of kind 'Unigram' are not supported"),
        (
            lambda d: d.update(model={"type": "Unigram", "unk_id": 0, "vocab": [["a", -1.5], ["b", 2]]}),
            "tokenizers of kind 'Unigram' are not supported",
        ),
        (lambda d: d["model"].update(dropout=0.5), "BPE models with 'dropout': 0.5"),
        (lambda d: d["model"].update(byte_fallback=True), "'byte_fallback': true"),
        (lambda d: d["model"].update(ignore_merges=True), "'ignore_merges': true"),
        (lambda d: d["model"].update(unk_token="!"), "'unk_token': '!'"),
        (lambda d: d["model"].update(continuing_subword_prefix="##"), "'continuing_subword_prefix'"),
        (lambda d: d["model"].update(new_option=1), "'new_option': 1"),
        (lambda d: d.update(normalizer={"type": "NFC"}), "normalizers of kind 'NFC'"),
        (lambda d: d.update(decoder={"type": "Fuse"}), "decoders of kind 'Fuse'"),
        (lambda d: d.update(pre_tokenizer={"type": "Whitespace"}), "pre-tokenizers of kind 'Whitespace'"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"].pop(), "sequences of 1 pre-tokenizers"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(behavior="Isolated"), "'behavior': 'Isolated'"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(invert=False), "'invert': false"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"String": " "}), "no regular expressions"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+"}), "character classes"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": ""}), "character classes"),
        (lambda d: d["pre_tokenizer"]["pretokenizers"][1].update(use_regex=True), "'use_regex': true"),
        (lambda d: d.update(post_processor={"type": "ByteLevel"}), "post-processors of kind 'ByteLevel'"),
        (lambda d: d["truncation"].update(direction="Left"), "'direction': 'Left'"),
        (lambda d: d["truncation"].update(stride=1), "'stride': 1"),
        (lambda d: d["padding"].update(pad_to_multiple_of=8), "'pad_to_multiple_of': 8"),
        (
            lambda d: d["added_tokens"].append({"id": 1, "content": "x", "special": True, "normalized": False}),
            "added tokens are not supported",
        ),
    ],
)
def test_other_tokenizers_are_refused(edited: Callable[..., Any], change: Callable[[Any], object], words: str) -> None:
    with pytest.raises(EngineUnavailableError) as caught:
        edited(change, small=True)
    assert words in str(caught.value)
    assert str(caught.value).endswith(" are not supported by this release of the C++ library: use the Python runtime")


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"null",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"model": {"type": "BPE"}}',
        b'{"model": {"type": "BPE", "vocab": [], "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": "b"}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 4294967296}, "merges": []}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [["a"]]}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": [["a", "b"]]}}',
        b'{"model": {"type": "BPE", "vocab": {"a": 1}, "merges": []}}',
        lambda d: d.pop("model"),
        lambda d: d["model"].pop("merges"),
        lambda d: d["model"]["merges"].append(["dog", "dog"]),
        lambda d: d["post_processor"]["special_tokens"].pop("<end_of_text>"),
        lambda d: d["truncation"].update(max_length=-1),
    ],
)
def test_damaged_files_are_refused(edited: Callable[..., Any], change: Any) -> None:
    with pytest.raises(
        BundleError, match=r"tokenizer\.json: not a readable tokenizer file \(.+\); export the bundle again$"
    ):
        edited(change, small=True)


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (lambda d: d.update(truncation=None), {}),
        (lambda d: d.update(padding=None), {}),
        (lambda d: d["truncation"].update(max_length=76), {}),
        (lambda d: d["padding"].update(strategy="BatchLongest"), {}),
        (lambda d: d["padding"].update(strategy={"Fixed": 80}), {}),
        (None, {"last_id": 5}),
    ],
)
def test_lengths_must_fit_the_manifest(edited: Callable[..., Any], change: Any, fields: dict[str, Any]) -> None:
    with pytest.raises(BundleError) as caught:
        edited(change, small=True, **fields)
    folder = Path(str(caught.value).split(":")[0]).parent
    config = read_manifest(folder).tokenizer
    assert config is not None
    with pytest.raises(BundleError) as expected:
        TextTokenizer(folder / config.file, config)
    assert str(caught.value) == str(expected.value)


def _short_rows(data: Any) -> None:
    data["truncation"]["max_length"] = 76
    data["padding"]["strategy"] = {"Fixed": 76}


def _without_soft_hyphen(data: Any) -> None:
    name = "\u0143"  # of its second byte, which the tokenizer then leaves out
    for piece in [piece for piece in data["model"]["vocab"] if name in piece]:
        del data["model"]["vocab"][piece]
    data["model"]["merges"] = [merge for merge in data["model"]["merges"] if name not in "".join(merge)]


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        (None, {"strip_sep_token": True}),
        (_short_rows, {"last_id": 5}),
        (_short_rows, {"last_id": 49407, "strip_sep_token": True}),
        (lambda d: d["padding"].update(pad_id=7), {}),
        (lambda d: d["post_processor"]["single"].pop(), {}),
        (lambda d: d["post_processor"]["single"].insert(0, d["post_processor"]["single"][-1]), {}),
        (lambda d: d["model"]["merges"].append(["t", "h"]), {}),  # a pair that is there already
        (lambda d: d["model"]["merges"].reverse(), {}),
        (_without_soft_hyphen, {}),
    ],
)
def test_other_rows_are_equal(edited: Callable[..., Any], change: Any, fields: dict[str, Any]) -> None:
    clip, folder = edited(change, **fields)
    config = read_manifest(folder).tokenizer
    assert config is not None
    with clip:
        _compare(
            (TextTokenizer(folder / config.file, config), clip.tokenize),
            [*_without_surrogates(_HARD), "soft\u00adhyphen"],
        )
