"""The search for a text tower's length rule, which is the number of ids of a row that the tower needs.

A causal tower that pools its end-of-text token ignores later tokens; a tower that masks padding ignores the padding; CoCa's
published weights let one padding token take part; other towers, such as SigLIP's, which attend to padding, need the whole row. The
rule does not come from a list of names: each rule is tried on real captions, and the first one that changes nothing is taken.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from engines.inputs.text_length import needed_lengths
from engines.manifest import TextLength
from exporter.towers.modules import TextTower, text_is_fixed_length

MIN_LENGTH = 2
# Embeddings have unit length; cutting unused ids changes them by float32 rounding only, 1.5e-7 where it was measured.
_TOLERANCE = 5e-6
_CANDIDATES: tuple[tuple[Literal["end", "padding"], int], ...] = (("end", 0), ("padding", 0), ("padding", 1))


def find_text_length(tower: TextTower, ids: np.ndarray, pad_id: int, seed: int = 0) -> TextLength:
    """Find the rule by which rows may be cut.

    Args:
        tower: the tower in float32.
        ids: the ids of real captions of different lengths, at the full context length, (N, L) int32.
        pad_id: the id that fills rows up.
        seed: the seed of the ids that replace those that a rule ignores.
    """
    context = int(ids.shape[1])
    fixed = TextLength(keep="fixed", extra=0, min=context, max=context, pad_id=pad_id)
    if text_is_fixed_length(tower):
        return fixed
    rows = _distinct_rows(ids, pad_id)
    full = _embed(tower, rows)
    rng = np.random.default_rng(seed)
    for keep, extra in _CANDIDATES:
        length = TextLength(keep=keep, extra=extra, min=MIN_LENGTH, max=context, pad_id=pad_id)
        lengths = needed_lengths(rows, length, pad_id)
        if int(lengths.min()) >= context:
            continue  # no row was cut, so the test would show nothing
        if keep == "end" and not _ignores(tower, rows, lengths, full, rng):
            continue
        if all(_same(_embed(tower, rows[i : i + 1, :n]), full[i : i + 1]) for i, n in enumerate(lengths)):
            return length
    return fixed


def _distinct_rows(ids: np.ndarray, pad_id: int, count: int = 8) -> np.ndarray:
    """Choose up to `count` rows of different lengths, from the shortest to the longest."""
    rule = TextLength(keep="padding", extra=0, min=MIN_LENGTH, max=int(ids.shape[1]))
    _, first = np.unique(needed_lengths(ids, rule, pad_id), return_index=True)
    picked = first[np.linspace(0, len(first) - 1, min(count, len(first))).round().astype(int)]
    return ids[picked]


def _ignores(
    tower: TextTower, rows: np.ndarray, lengths: np.ndarray, full: np.ndarray, rng: np.random.Generator
) -> bool:
    """Whether other ids (all lower than the row's highest) after the kept ones leave the embedding unchanged."""
    noisy = rows.copy()
    for row, length in zip(noisy, lengths, strict=True):
        row[length:] = rng.integers(1, max(2, int(row.max())), size=len(row) - int(length))
    return _same(_embed(tower, noisy), full)


def _embed(tower: TextTower, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return tower(torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int32))).numpy()


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    return bool(np.abs(one - other).max() <= _TOLERANCE)  # NaN counts as different
