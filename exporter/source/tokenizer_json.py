"""open_clip's tokenizer as a Hugging Face ``tokenizer.json``, checked against the original before it is used.

The file holds every step after the cleaning of the text: splitting, BPE, special tokens, truncation and padding. Cleaning
(ftfy, HTML entities, case) has no counterpart in the format; the manifest names it, and the reader of the file does it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, processors

from engines import manifest
from engines.inputs.tokenizer import TextTokenizer
from exporter.errors import ExportError

if TYPE_CHECKING:
    from open_clip.tokenizer import HFTokenizer, SimpleTokenizer

_DEFAULT_VOCAB_SIZE = 49408  # open_clip's CLIPTextCfg
_WORD_END = "</w>"
_CODE_POINTS = ((0, 0xD800), (0xE000, 0x110000))  # without the surrogates, which no text in UTF-8 holds
# The parts of open_clip's split pattern, behind its special tokens.
_CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
_CLASSES = (r"[\p{L}]", r"[\p{N}]", r"[^\s\p{L}\p{N}]")

# The texts on which every conversion is tested; tokenizers can differ in another way on each line.
_SAMPLES = (
    "",
    " ",
    "a",
    "a photo of a dog.",
    "A Photo of TWO dogs, isn't it? They're mine; we'll, I'd, you've, I'm; DON'T",
    "'s 's's it''s 'ſ 'lL",
    "3.14159 x 10^-7, 1,000,000 and ½ ² Ⅷ ٣ 五",
    "snake_case __init__(self) {key: 'value'} [0] <b>bold</b> #tag @user https://example.com/?q=a&b=c",
    "AT&amp;T &lt;b&gt; &amp;lt; &amp;amp;amp; &eacute; &#233; &#x1F600; &nbsp; &#xD800; &notanentity;",
    "schÃ¶n â€œquotedâ€\x9d “curly” ‘single’ … – — ﬁne ﬂow ＦＵＬＬ ½",
    "naïve café, Übergröße, ÇA VA, İstanbul, ΟΔΥΣΣΕΥΣ, ǅ, ẞ, \u212a",
    "собака на снегу; Ελληνικά; עברית; كلب في الثلج; कुत्ता; หมาในหิมะ; 눈 속의 개; 雪の中の犬; 雪地里的狗; ქართული; አማርኛ",
    "combining e\u0301 n\u0303 \u0345 a\u0345b x\u20dd; jamo \u1112\u1161\u11ab; \ufeffbom; soft\u00adhyphen; \u200d\u200c\u200b",
    "🐶 👩‍👩‍👧‍👦 👍🏽 🏳️‍🌈 🇫🇷 1️⃣ ❤️ a🐶b 🐶🐶🐶",
    "control \x00 \x01\x02 \x07 \x1b[31mred\x1b[0m \x7f \x85 \x1c\x1d\x1e\x1f end",
    "\t tabs\tand\nlines\r\n \x0b \x0c nbsp\u00a0em\u2003thin\u2009ideographic\u3000line\u2028para\u2029 \u180e end ",
    "private \ue000 \U000f0000 unassigned \u0378 \U0003ffff nonchar \uffff replacement \ufffd lone \ud800 \udfff",
    "ancient 𐤀𐤁 𒀀 𓀀 math 𝔘𝔫𝔦 new letters \ua7cb \U00010d50 \U00016d40 \U000323b0",
    "!!! ... ,,, ;;; '' \"\" ---- ~~~~ \\ / | ` ^ $ % * + = ( ) [ ] { }",
    "word " * 300,
    "antidisestablishmentarianism" * 40,
    "!" * 500,
    "7" * 300,
    "字" * 300,
)


def write_tokenizer(tokenizer: Callable[..., Any], text_config: dict[str, Any], path: Path) -> manifest.Tokenizer:
    """Write `tokenizer` as `path`, and prove on a set of difficult texts that the file gives the same ids.

    Args:
        tokenizer: the result of ``open_clip.get_tokenizer``: SimpleTokenizer, HFTokenizer or SigLipTokenizer.
        text_config: the architecture's ``text_cfg``, which has the size of the vocabulary.
        path: the file to write; it is removed if the proof fails.

    Returns:
        The data that :class:`engines.inputs.tokenizer.TextTokenizer` needs besides the file.

    Raises:
        ExportError: the format cannot express this kind of tokenizer, or a text's ids differ.
    """
    from open_clip.tokenizer import HFTokenizer, SigLipTokenizer, SimpleTokenizer

    if isinstance(tokenizer, SimpleTokenizer):
        converted, config = _convert_simple(tokenizer, text_config, path.name)
    elif isinstance(tokenizer, (HFTokenizer, SigLipTokenizer)):
        converted, config = _convert_hugging_face(tokenizer, text_config, path.name)
    else:
        raise ExportError(
            f"tokenizer {type(tokenizer).__name__} cannot be converted; "
            "use a model with open_clip's SimpleTokenizer, HFTokenizer or SigLipTokenizer, or export only --towers image"
        )
    path.write_text(converted, encoding="utf-8")
    try:
        check_tokenizer(tokenizer, TextTokenizer(path, config), hard_captions(tokenizer))
    except BaseException:
        path.unlink()
        raise
    return config


def check_tokenizer(original: Callable[..., Any], converted: TextTokenizer, texts: Sequence[str]) -> None:
    """Check that both give equal ids below the vocabulary's size for all `texts`; the `ExportError` otherwise names the text."""
    expected = original(list(texts)).numpy()
    ids = converted(texts)
    if expected.shape != ids.shape:
        raise ExportError(
            f"tokenizer.json gives ids of shape {ids.shape}, open_clip's tokenizer {expected.shape}; report it"
        )
    for text, old, new in zip(texts, expected, ids, strict=True):
        if not np.array_equal(old, new):
            position = int(np.argmax(old != new))
            raise ExportError(
                f"tokenizer.json differs from open_clip's tokenizer at {_shown(text)}: id {new[position]} instead of "
                f"{old[position]} at position {position}; report it, or export only --towers image"
            )
        if new.max() >= converted.config.vocab_size:
            raise ExportError(
                f"the tokenizer gives id {new.max()} for {_shown(text)}, but the text tower's vocabulary has "
                f"{converted.config.vocab_size}; name the tokenizer that the model was trained with"
            )


def _convert_simple(
    tokenizer: SimpleTokenizer, text_config: dict[str, Any], name: str
) -> tuple[str, manifest.Tokenizer]:
    specials = [tokenizer.decoder[i] for i in tokenizer.all_special_ids]
    clean = _clean_name(tokenizer.clean_fn)
    if tokenizer.reduction_fn is not None:
        raise ExportError("a SimpleTokenizer with reduction_mask drops tokens at random; set reduction_mask to ''")
    if specials != ["<start_of_text>", "<end_of_text>"]:
        raise ExportError(f"special tokens {specials[2:]} cannot be expressed in tokenizer.json; leave them out")
    if clean == "whitespace":
        raise ExportError(
            "a SimpleTokenizer with clean='whitespace' keeps upper case, which its vocabulary has not; use 'lower'"
        )
    converted = tokenizers.Tokenizer(_bpe_model(tokenizer, specials))
    converted.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_split_pattern(tuple(specials))), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    start, end = specials
    converted.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, tokenizer.sot_token_id), (end, tokenizer.eot_token_id)]
    )
    converted.enable_truncation(tokenizer.context_length)
    converted.enable_padding(length=tokenizer.context_length, pad_id=0, pad_token=tokenizer.decoder[0])
    config = manifest.Tokenizer(
        file=name,
        context_length=tokenizer.context_length,
        vocab_size=int(text_config.get("vocab_size", _DEFAULT_VOCAB_SIZE)),
        clean=clean,
        pad_id=0,
        end_id=tokenizer.eot_token_id,
    )
    return converted.to_str(), config


def _bpe_model(tokenizer: SimpleTokenizer, specials: Iterable[str]) -> models.BPE:
    """Make the BPE model, in which the special tokens are words that merge into one id after all other merges are done.

    open_clip's tokenizer finds ``<end_of_text>`` in a text only where its regular expression starts a new word there, so not
    after other punctuation, as in ``!<end_of_text>``. An added token of the format would be found there, too. Therefore the split
    pattern finds the special tokens, and merges that start with ``<`` and continue with a letter join their pieces. No other
    word mixes the two, and the text is lower case by then, so the intermediate merges never remain as ids of their own.
    """
    vocab = {piece: i for piece, i in tokenizer.encoder.items() if piece}
    merges = [merge for merge, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    merges = [merge for merge in merges if len(merge) == 2 and merge[0] in vocab and merge[1] in vocab]
    plain = models.BPE(vocab, merges, end_of_word_suffix=_WORD_END)
    unused = count(max(vocab.values()) + 1)
    for special in specials:
        pieces = [token.value for token in plain.tokenize(special)]
        *joined, whole = accumulate(pieces)
        merges += zip(joined, pieces[1:], strict=True)
        vocab |= zip(joined[1:], unused, strict=False)  # joined[0] is a piece
        vocab[whole] = vocab.pop(special)
    return models.BPE(vocab, merges, end_of_word_suffix=_WORD_END)


@functools.cache
def _split_pattern(specials: tuple[str, ...]) -> str:
    r"""Make open_clip's split pattern, with every character class written as code points.

    The original is matched by the ``regex`` module with IGNORECASE, whose Unicode tables differ from those of the library that
    reads the file; U+017F matches ``s`` there, and U+0345 matches nothing. The classes are tested with that module code point by
    code point, so they mean the same in every reader.
    """
    import regex

    texts = [(first, "".join(map(chr, range(first, end)))) for first, end in _CODE_POINTS]

    def ranges(pattern: str) -> str:
        runs = regex.compile(f"{pattern}+", regex.IGNORECASE)
        spans = [
            (first + match.start(), first + match.end() - 1) for first, text in texts for match in runs.finditer(text)
        ]
        return "[" + "".join(rf"\x{{{first:X}}}-\x{{{last:X}}}" for first, last in spans) + "]"

    literals = [*specials, *_CONTRACTIONS]
    alphabet = "".join(sorted(set("".join(literals))))
    variants = regex.findall(f"[{regex.escape(alphabet)}]", "".join(text for _, text in texts), regex.IGNORECASE)

    def ignoring_case(character: str) -> str:
        same = [variant for variant in variants if regex.fullmatch(regex.escape(character), variant, regex.IGNORECASE)]
        return "[" + "".join(rf"\x{{{ord(variant):X}}}" for variant in same) + "]"

    letters, number, others = (ranges(pattern) for pattern in _CLASSES)
    words = ["".join(map(ignoring_case, literal)) for literal in literals]
    return "|".join([*words, f"{letters}+", number, f"{others}+"])


def _convert_hugging_face(
    tokenizer: HFTokenizer, text_config: dict[str, Any], name: str
) -> tuple[str, manifest.Tokenizer]:
    inner = tokenizer.tokenizer
    backend = getattr(inner, "backend_tokenizer", None)
    if backend is None:
        raise ExportError(
            f"{type(inner).__name__} has no tokenizer.json to write (it is a Python tokenizer); "
            "save it as a fast tokenizer and name that folder, or export only --towers image"
        )
    end_id = inner.eos_token_id if inner.eos_token_id is not None else inner.sep_token_id
    strip = bool(getattr(tokenizer, "strip_sep_token", False))
    if strip:
        end_id = inner.sep_token_id
    if end_id is None or inner.pad_token_id is None:
        raise ExportError(f"{inner.name_or_path}: the tokenizer lacks a pad, eos or sep token; name them in its config")
    converted = tokenizers.Tokenizer.from_str(backend.to_str())
    last_id = None
    length = int(tokenizer.context_length)
    if getattr(tokenizer, "tokenizer_mode", "") == "clips":
        last_id = _wrap_clips(converted, inner)
        length -= 1
    converted.enable_truncation(length, direction=inner.truncation_side if last_id is None else "right")
    converted.enable_padding(
        direction=inner.padding_side if last_id is None else "right",
        pad_id=inner.pad_token_id,
        pad_type_id=inner.pad_token_type_id,
        pad_token=inner.pad_token,
        length=length,
    )
    own_table = "hf_model_name" in text_config
    config = manifest.Tokenizer(
        file=name,
        context_length=int(tokenizer.context_length),
        vocab_size=len(inner) if own_table else int(text_config.get("vocab_size", _DEFAULT_VOCAB_SIZE)),
        clean=_clean_name(tokenizer.clean_fn) if hasattr(tokenizer, "clean_fn") else "canonicalize",
        pad_id=int(inner.pad_token_id),
        end_id=int(end_id),
        strip_sep_token=strip,
        last_id=last_id,
    )
    return converted.to_str(), config


def _wrap_clips(converted: tokenizers.Tokenizer, inner: Any) -> int:
    """Begin and end rows as the "clips" mode does; returns the id that this mode puts after the padding."""
    ids = {"bos": inner.bos_token_id, "eos": inner.eos_token_id, "cls": inner.cls_token_id}
    missing = [kind for kind, token_id in ids.items() if token_id is None]
    if missing:
        raise ExportError(f"tokenizer_mode 'clips' needs a {missing[0]} token, which {inner.name_or_path} lacks")
    converted.post_processor = processors.TemplateProcessing(
        single="bos $A eos", special_tokens=[("bos", ids["bos"]), ("eos", ids["eos"])]
    )
    return int(ids["cls"])


def _clean_name(clean: Callable[[str], str]) -> Any:
    from open_clip.tokenizer import get_clean_fn

    names = ("lower", "whitespace", "canonicalize")
    for name in names:
        if clean is get_clean_fn(name):
            return name
    raise ExportError(f"the tokenizer's cleaning {clean!r} is none of {', '.join(names)}; use one of them")


def hard_captions(tokenizer: Callable[..., Any]) -> list[str]:
    """Make texts on which tokenizers differ, and texts with every special token where it may and may not be found."""
    inner = getattr(tokenizer, "tokenizer", None)
    specials = ["<start_of_text>", "<end_of_text>"] if inner is None else list(inner.all_special_tokens)
    framed = [frame.format(token) for token in specials for frame in ("{}", "a {} b", "a{0}b{0}", "!{}!", "{0}{0}")]
    return [*_SAMPLES, *framed]


def _shown(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:60]!r}… ({len(text)} characters)"
