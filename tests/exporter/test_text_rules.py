"""exporter.towers.text_rules: how many ids a tower needs is found by trying, and the rule is exact."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shallow import register

from engines.inputs.text_length import needed_lengths
from engines.manifest import Preprocess, TextLength
from exporter.errors import ExportError
from exporter.layouts.support import check_config
from exporter.source.loading import load_source
from exporter.towers.modules import TextTower, text_tower
from exporter.towers.text_rules import find_text_length


def rows(lengths: tuple[int, ...], context: int, special: tuple[int, int, int], words: int) -> np.ndarray:
    """Rows of start, words, end, and padding."""
    start, end, pad = special
    rng = np.random.default_rng(4)
    ids = np.full((len(lengths), context), pad, dtype=np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[:length] = rng.integers(3, words, length)
        row[0], row[length - 1] = start, end
    return ids


CLIP = (49406, 49407, 0)
BERT = (0, 2, 1)
_GREY = (0.5, 0.5, 0.5)
_PREPROCESS = Preprocess(size=(8, 8), mean=_GREY, std=_GREY, interpolation="bicubic", resize_mode="shortest")


def tower_of(name: str) -> TextTower:
    return text_tower(load_source(name, "none", with_tokenizer=False).model)


def embed(tower: TextTower, ids: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        return tower(torch.from_numpy(ids)).numpy()


def reads_no_padding(text: dict[str, Any]) -> bool:
    """Whether a layout for transformers accepts a text tower because of its configuration, before any rule was tried."""
    try:
        check_config("model", "model", text, False, _PREPROCESS)
    except ExportError:
        return False
    return True


@pytest.mark.parametrize(
    ("architecture", "special", "words", "rule"),
    [
        ("ViT-B-32", CLIP, 49000, ("end", 0)),
        ("coca_ViT-B-32", CLIP, 49000, ("padding", 1)),
        ("roberta-ViT-B-32", BERT, 900, ("padding", 0)),
    ],
)
def test_rule_of_each_family(
    architecture: str, special: tuple[int, int, int], words: int, rule: tuple[str, int], tmp_path: Path
) -> None:
    source = load_source(register(architecture, tmp_path), "none", with_tokenizer=False)
    context = int(source.text_config.get("context_length", 77))
    tower = text_tower(source.model)
    ids = rows((3, 5, 9, 20, context), context, special, words)
    length = find_text_length(tower, ids, special[2])
    assert (length.keep, length.extra, length.min, length.max) == (*rule, 2, context)
    assert reads_no_padding(source.text_config) == (rule == ("end", 0))
    full = embed(tower, ids)
    for i, needed in enumerate(needed_lengths(ids, length, special[2])):
        np.testing.assert_allclose(embed(tower, ids[i : i + 1, :needed]), full[i : i + 1], atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        {"pool_type": "last", "no_causal_mask": True},  # SigLIP's kind: padding is seen
        {"pool_type": "first", "no_causal_mask": True},
        {"pool_type": "last"},
    ],
    ids=str,
)
def test_towers_that_see_padding_keep_their_length(text: dict[str, Any], tmp_path: Path) -> None:
    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = 1
    config["text_cfg"] |= {"layers": 2, **text}
    config["custom_text"] = True
    name = f"fixed-{abs(hash(str(text)))}"
    (tmp_path / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    length = find_text_length(tower_of(name), rows((3, 9, 77), 77, CLIP, 49000), 0)
    assert not reads_no_padding(config["text_cfg"])
    assert length == TextLength(keep="fixed", extra=0, min=77, max=77)


def test_a_tower_that_pools_the_first_end_token_reads_no_padding(tmp_path: Path) -> None:
    import open_clip

    config = open_clip.get_model_config("ViT-B-32")
    config["vision_cfg"]["layers"] = 1
    config["text_cfg"] |= {"layers": 2, "pool_type": "eos", "eos_id": CLIP[1]}
    config["custom_text"] = True
    (tmp_path / "pools-eos.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path / "pools-eos.json")
    assert find_text_length(tower_of("pools-eos"), rows((3, 9, 77), 77, CLIP, 49000), 0).keep == "end"
    assert reads_no_padding(config["text_cfg"])
    assert not reads_no_padding(config["text_cfg"] | {"tokenizer_mode": "clips"})


def test_rows_that_are_all_full_prove_nothing(tmp_path: Path) -> None:
    """Where no row can be cut, no rule was shown to hold, and the length stays fixed."""
    tower = tower_of(register("ViT-B-32", tmp_path))
    assert find_text_length(tower, rows((77, 77), 77, CLIP, 49000), 0).keep == "fixed"
