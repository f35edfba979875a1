"""Whole swapped towers on their Triton kernels, in the interpreter, as close to float64 as the native towers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from kernel_bound import assert_bounded

OPS = ("attention", "packed_attention", "linear_gelu", "bias_gelu", "add_layer_norm", "normalize_image", "l2_normalize")


def demo_tower(name: str, dtype: torch.dtype) -> Any:
    """A tower of the demo model, all of it in one dtype."""
    from exporter.source.loading import load_source
    from exporter.towers.modules import image_tower, text_tower

    source = load_source("demo", with_tokenizer=False)
    tower: Any = image_tower(source.model, source.preprocess) if name == "image" else text_tower(source.model)
    for _, unit in tower.encoder.units():
        unit.set_dtypes(dtype, dtype)
    return tower


def some_inputs(name: str) -> torch.Tensor:
    """Two pictures, or two captions of 5 and 9 ids."""
    rng = np.random.default_rng(0)
    if name == "image":
        return torch.from_numpy(rng.integers(0, 256, (2, 64, 64, 3), np.uint8))
    ids = torch.zeros(2, 9, dtype=torch.int32)
    ids[0, :5], ids[1] = torch.tensor([49406, 320, 736, 7, 49407]), torch.arange(49399, 49408)
    return ids


def on_their_kernels() -> Any:
    """Inside, every op that a fused module calls is its Triton kernel."""
    import kernels.blocks as blocks

    return patch.multiple(
        blocks, **{op: partial(getattr(blocks, op), impl="triton") for op in OPS if hasattr(blocks, op)}
    )


def swapped_towers_are_as_close(name: str, dtype: torch.dtype) -> None:
    from mended_interpreter import mend_interpreter

    from engines.manifest import TextLength
    from exporter.towers.packed_text import packed_text_tower
    from kernels.swap import swap

    mend_interpreter()
    inputs = some_inputs(name.removeprefix("packed "))
    tower = demo_tower(name.removeprefix("packed "), dtype)
    with torch.inference_mode():
        exact = demo_tower(name.removeprefix("packed "), torch.float64)(inputs).double()
        native = tower(inputs)
        given: tuple[torch.Tensor, ...] = (inputs,)
        if name == "packed text":
            tower = packed_text_tower(tower, TextLength(keep="end", extra=0, min=2, max=77))
            given = (torch.cat((inputs[0, :5], inputs[1])), torch.tensor([0, 5, 14], dtype=torch.int32))
        report = swap(tower, {torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype], "triton")
        assert report.swapped["l2_normalize"] == 1
        assert ("normalize_image" in report.swapped) == (name == "image")
        assert ("packed_attention" in report.swapped) == (name == "packed text")
        with on_their_kernels():
            assert_bounded(tower(*given), native, exact)


# Each tower once. That kernels compute as well in the other dtype is for the ops' own tests.
FAST = (("image", torch.float16), ("text", torch.bfloat16), ("packed text", torch.float16))
SLOW = (("image", torch.bfloat16), ("text", torch.float16), ("packed text", torch.bfloat16))


@pytest.mark.parametrize(
    ("name", "dtype"), [*FAST, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)], ids=str
)
def test_swapped_towers(interpret: Callable[..., Any], name: str, dtype: torch.dtype) -> None:
    interpret(swapped_towers_are_as_close, name, dtype)
