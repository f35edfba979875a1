"""The files of transformers' ``CLIPTokenizerFast``, made of a bundle's ``tokenizer.json``.

The vocabulary and the merges are the bundle's. The rest is what transformers has for CLIP: its normalizer and its split pattern,
which regular expressions of JavaScript can express, too, and its names of the special tokens. Cleaning with ftfy and HTML entities
has no counterpart there; `exporter.layouts.measurement` counts the captions for which that matters.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from engines import manifest
from engines.files.bundle_paths import resolve_path
from exporter.errors import ExportError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json", "merges.txt")
_WORD_END = "</w>"
# open_clip's names of the special tokens (as words of its vocabulary) and transformers' names, which transformers.js relies on.
_START, _END = "<|startoftext|>", "<|endoftext|>"
_RENAMED = {"<start_of_text></w>": _START, "<end_of_text></w>": _END, "<start_of_text>": _START, "<end_of_text>": _END}
_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def write_tokenizer_files(bundle: Path, config: manifest.Tokenizer, out: Path) -> None:
    """Write `TOKENIZER_FILES` into the folder `out`.

    Args:
        bundle: the bundle's folder.
        config: the manifest's entry of its tokenizer.
        out: an existing folder.

    Raises:
        ExportError: the bundle's tokenizer is no byte-level BPE with CLIP's two special tokens.
    """
    vocab, merges = _vocabulary(resolve_path(bundle, config.file), config)
    names = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    whole = _tokenizer(vocab, merges)
    (out / "tokenizer.json").write_text(whole.to_str(pretty=True), encoding="utf-8")
    _write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "CLIPTokenizer",
            **names,
            "model_max_length": config.context_length,
            "padding_side": "right",
            "do_lower_case": True,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "errors": "replace",
        },
    )
    _write_json(out / "special_tokens_map.json", names)
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_ids(out: Path, texts: list[str], context_length: int) -> list[list[int]]:
    """Token ids by the written ``tokenizer.json``, cut to `context_length`, without padding."""
    tokenizer = tokenizers.Tokenizer.from_file(str(out / "tokenizer.json"))
    tokenizer.enable_truncation(context_length)
    return [encoding.ids for encoding in tokenizer.encode_batch(texts)]


def _vocabulary(path: Path, config: manifest.Tokenizer) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Read the words with their ids, in the order of ids, and the merges between them, without those of the special tokens."""
    model: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["model"]
    words = (
        {_RENAMED.get(word, word): index for word, index in model.get("vocab", {}).items()} if _is_bpe(model) else {}
    )
    if words.get(_END) != config.end_id or _START not in words:
        raise ExportError(
            f"{path} is no BPE with the tokens of OpenAI's CLIP, so transformers' CLIPTokenizerFast cannot express it: "
            "use the bundle with engines"
        )
    # Ids above the vocabulary's belong to the pieces into which open_clip's names of the special tokens fall.
    kept = {word: index for word, index in sorted(words.items(), key=lambda item: item[1]) if index < config.vocab_size}
    pairs = (tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"])
    merges = [(one, two) for one, two in pairs if one in kept and two in kept and one + two in kept]
    return kept, merges


def _is_bpe(model: dict[str, Any]) -> bool:
    return model.get("type") == "BPE" and model.get("end_of_word_suffix") == _WORD_END


def _tokenizer(vocab: dict[str, int], merges: list[tuple[str, str]]) -> tokenizers.Tokenizer:
    suffixes: dict[str, Any] = {"continuing_subword_prefix": "", "end_of_word_suffix": _WORD_END}
    whole = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token=_END, fuse_unk=False, **suffixes))
    whole.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(tokenizers.Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    whole.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    whole.decoder = decoders.ByteLevel()
    whole.post_processor = processors.RobertaProcessing(
        (_END, vocab[_END]), (_START, vocab[_START]), trim_offsets=False, add_prefix_space=False
    )
    whole.add_special_tokens([tokenizers.AddedToken(name, normalized=False, special=True) for name in (_START, _END)])
    return whole


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
