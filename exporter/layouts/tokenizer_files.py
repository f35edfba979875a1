"""The bundle's vocabulary as files of Hugging Face's ``CLIPTokenizerFast``, which transformers and transformers.js read.

The vocabulary and the merges are open_clip's. The special tokens have the names that those classes look for. What cleans a text
(ftfy, HTML entities) has no counterpart there; `exporter.layouts.differences` measures what that changes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_START, _END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer_files(tokenizer_json: Path, out: Path, context_length: int) -> None:
    """Write ``tokenizer.json``, ``tokenizer_config.json``, ``special_tokens_map.json``, ``vocab.json`` and ``merges.txt``.

    Args:
        tokenizer_json: a bundle's tokenizer of open_clip's ``SimpleTokenizer``.
        out: the folder.
        context_length: the number of ids of a row, start and end included.
    """
    source = json.loads(tokenizer_json.read_text(encoding="utf-8"))["model"]
    vocabulary, merges = plain_vocabulary(source)
    end = len(vocabulary) - 1
    _write(out / "tokenizer.json", _tokenizer(vocabulary, merges, end, context_length))
    tokens = {"bos_token": _START, "eos_token": _END, "unk_token": _END, "pad_token": _END}
    options = {"tokenizer_class": "CLIPTokenizer", "model_max_length": context_length, "do_lower_case": True}
    _write(out / "tokenizer_config.json", tokens | options | {"clean_up_tokenization_spaces": False})
    _write(out / "special_tokens_map.json", tokens)
    _write(out / "vocab.json", vocabulary)
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (out / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def plain_vocabulary(model: dict[str, Any]) -> tuple[dict[str, int], list[list[str]]]:
    """Take open_clip's own pieces and merges out of a bundle's BPE model, whose special tokens are made by merges.

    The special tokens have the last two ids of open_clip's vocabulary; pieces behind them exist only in the bundle's file.
    """
    ends = [i for piece, i in model["vocab"].items() if piece.startswith("<end_of_text>")]
    size = max(ends) + 1
    vocabulary = {piece: i for piece, i in model["vocab"].items() if i < size - 2}
    merges = [pair if isinstance(pair, list) else pair.split(" ") for pair in model["merges"]]
    merges = [
        pair for pair in merges if "".join(pair) in vocabulary and pair[0] in vocabulary and pair[1] in vocabulary
    ]
    vocabulary |= {_START: size - 2, _END: size - 1}
    return dict(sorted(vocabulary.items(), key=lambda item: item[1])), merges


def _tokenizer(vocabulary: dict[str, int], merges: list[list[str]], end: int, length: int) -> dict[str, Any]:
    start = end - 1
    pattern = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": i, "content": text, **special} for i, text in ((start, _START), (end, _END))],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "NFC"},
                {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
                {"type": "Lowercase"},
            ],
        },
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Removed", "invert": True},
                {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            ],
        },
        "post_processor": {
            "type": "RobertaProcessing",
            "sep": [_END, end],
            "cls": [_START, start],
            "trim_offsets": False,
            "add_prefix_space": False,
        },
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": _END,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocabulary,
            "merges": merges,
        },
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
