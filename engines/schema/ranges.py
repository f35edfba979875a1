"""The range of every field of a manifest; the section "Ranges" of ``engines/FORMAT.md`` holds the same table.

A number's range stands in `NUMBERS`. A text's pattern stands in `TEXTS`, or the text may be any of at most `MAX_TEXT` characters.
The schema checks types and choices, and `engines.schema.consistency` checks rules between fields.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

MAX_TEXT = 4096  # characters
MAX_ENTRIES = 10_000  # limit for a list, and for an object whose names are free
_ID = (0, 2**31 - 1)  # ids are int32
_COUNT = (0, 2**53)  # whole numbers that every JSON reader holds exactly
_BATCH = (1, 65_536)
_LENGTH = (1, 32_768)
_SHARE, _COSINE = (0, 1), (-1, 1)

# Field to its smallest and largest value. The structs are those of `engines.manifest`.
NUMBERS: dict[str, tuple[float, float]] = {
    "Manifest.schema_version": (1, 2**31 - 1),
    "Model.embed_dim": (1, 65_536),
    "Model.logit_scale": (0, 1e9),
    "Model.logit_bias": (-1e9, 1e9),
    "Preprocess.size": (1, 4096),
    "Preprocess.mean": (-1000, 1000),
    "Preprocess.std": (1e-6, 1000),
    "Preprocess.fill_color": (0, 255),
    "Tokenizer.context_length": _LENGTH,
    "Tokenizer.vocab_size": (1, 2**31 - 1),
    "Tokenizer.pad_id": _ID,
    "Tokenizer.end_id": _ID,
    "Tokenizer.last_id": _ID,
    "Tensor.shape": (1, 65_536),
    "TextLength.extra": (0, 32_768),
    "TextLength.min": _LENGTH,
    "TextLength.max": _LENGTH,
    "TextLength.pad_id": _ID,
    "Quantization.layers": _COUNT,
    "Quantization.share": _SHARE,
    "Quantization.samples": _COUNT,
    "BatchProfile.min": _BATCH,
    "BatchProfile.opt": _BATCH,
    "BatchProfile.max": _BATCH,
    "Range.min": _BATCH,
    "Range.opt": _BATCH,
    "Range.max": _BATCH,
    "Build.seconds": (0, 1e9),
    "Build.peak_memory_bytes": _COUNT,
    "Build.fused_attention": _COUNT,
    "Build.decomposed_attention": _COUNT,
    "Build.layers": _COUNT,
    "Build.options": (-(2**63), 2**63),
    "Limits.min_cosine": _COSINE,
    "Limits.mean_cosine": _COSINE,
    "Limits.top1_agreement": _SHARE,
    "Limits.tie_margin": (0, 2),
    "TowerParity.samples": _COUNT,
    "TowerParity.min_cosine": _COSINE,
    "TowerParity.mean_cosine": _COSINE,
    "TowerParity.max_abs_error": (0, 1e30),
    "Parity.top1_agreement": _SHARE,
    "Float64Check.failing": _COUNT,
    "Float64Check.samples": _COUNT,
    "Float64Check.eager": (0, 1e30),
    "Float64Check.engine": (0, 1e30),
    "Float64Check.ratio": (0, 1e30),
    "Float64Check.limit": (0, 1e30),
    "Interval.value": (-1, 1),
    "Interval.low": (-1, 1),
    "Interval.high": (-1, 1),
    "Accuracy.samples": _COUNT,
    "Accuracy.classes": _COUNT,
    "Accuracy.limit": _SHARE,
    "Kernels.swapped": _COUNT,
    "File.bytes": _COUNT,
}

# Field to the pattern that its whole text must match, and the pattern in words.
TEXTS: dict[str, tuple[str, str]] = {
    "Model.weights": (r"[0-9a-f]{64}|random", "64 hexadecimal digits, or random"),
    "Tensor.name": (r"[A-Za-z0-9_./:-]{1,256}", "1 to 256 letters, digits and _ . / : -"),
    "Tensor.dtype": (r"uint8|int32|float32", "uint8, int32 or float32"),
    "Engine.kind": (r"[a-z0-9-]{1,64}", "1 to 64 small letters, digits and -"),
    "Target.version": (r"[A-Za-z0-9_.+!-]{1,128}", "1 to 128 letters, digits and _ . + ! -"),
    "File.sha256": (r"[0-9a-f]{64}", "64 hexadecimal digits"),
}


def out_of_range(value: Any) -> str | None:
    """The first field out of its range, in words ("files['x'].bytes is -1: it must be 0 to 100"); None if there is none.

    Args:
        value: an `engines.manifest.Manifest`, or a part of one.
    """
    return next(_problems(value, "", ""), None)


def _problems(value: Any, place: str, field: str) -> Iterator[str]:
    """Problems of a value at a place in the manifest; `field` is its name in the tables."""
    if isinstance(value, msgspec.Struct):
        name = type(value).__name__
        for item in value.__struct_fields__:
            yield from _problems(getattr(value, item), f"{place}.{item}".removeprefix("."), f"{name}.{item}")
    elif isinstance(value, Mapping):
        yield from _count_problem(len(value), place)
        for key, item in value.items():
            yield from _text_problem(key, f"a name in {place}", "")
            yield from _problems(item, f"{place}[{_shown(key)}]", field)
    elif isinstance(value, (tuple, list)):
        yield from _count_problem(len(value), place)
        for index, item in enumerate(value):
            yield from _problems(item, f"{place}[{index}]", field)
    elif isinstance(value, str):
        yield from _text_problem(value, place, field)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high = NUMBERS[field]
        if not (math.isfinite(value) if isinstance(value, float) else True) or not low <= value <= high:
            yield f"{place} is {_shown(value)}: it must be {low:,} to {high:,}"


def _count_problem(count: int, place: str) -> Iterator[str]:
    if count > MAX_ENTRIES:
        yield f"{place} has {count} entries: at most {MAX_ENTRIES} are allowed"


def _text_problem(text: str, place: str, field: str) -> Iterator[str]:
    pattern, words = TEXTS.get(field, ("", ""))
    if len(text) > MAX_TEXT:
        yield f"{place} has {len(text)} characters: at most {MAX_TEXT} are allowed"
    elif pattern and re.fullmatch(pattern, text) is None:
        yield f"{place} is {_shown(text)}: it must be {words}"


def _shown(value: Any) -> str:
    """A value in a message: its repr, cut where it is long. Python has no repr for whole numbers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 64:
        return "a number of more than 64 bits"
    shown = repr(value)
    return shown if len(shown) <= 100 else f"{shown[:100]}…"
