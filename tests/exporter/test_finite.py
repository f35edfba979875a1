"""exporter.gate.finite: NaN in a checkpoint, or in what eager makes of it, is the checkpoint's fault, said before the export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rough_model import register_tiny, save_tiny

import exporter
from exporter.errors import ExportError, ParityGateError
from exporter.gate.finite import check_embeddings, check_weights

IMAGE_WEIGHT = "visual.transformer.resblocks.1.mlp.c_fc.weight"


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    return register_tiny(tmp_path)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_weight_that_is_no_number_is_named(precision: str, value: float, tiny: str, tmp_path: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[IMAGE_WEIGHT][3, 5] = value

    file = save_tiny(tmp_path / "damaged.safetensors", change)
    with pytest.raises(
        ExportError, match=rf"damaged\.safetensors holds NaN or infinity in {IMAGE_WEIGHT} \(1 value\)"
    ) as error:
        exporter.export(tiny, pretrained=file, precision=precision, out=tmp_path / "b", parity_samples=4)
    assert not isinstance(error.value, ParityGateError)
    assert "precision" not in str(error.value)
    assert not (tmp_path / "b").exists()


def test_the_other_towers_weights_do_no_harm(tiny: str, tmp_path: Path) -> None:
    def change(weights: dict[str, torch.Tensor]) -> None:
        weights[IMAGE_WEIGHT][3, 5] = float("nan")

    file = save_tiny(tmp_path / "damaged.safetensors", change)
    exporter.export(tiny, pretrained=file, towers=("text",), out=tmp_path / "b", parity_samples=4)


def overflow(weights: dict[str, torch.Tensor]) -> None:
    """Finite weights, whose products are not."""
    weights["visual.proj"] *= 1e38


def vanish(weights: dict[str, torch.Tensor]) -> None:
    weights["visual.proj"] *= 0


@pytest.mark.parametrize(("change", "what"), [(overflow, "NaN or infinity"), (vanish, "an embedding of length 0")])
def test_eagers_own_embeddings(change: Any, what: str, tiny: str, tmp_path: Path) -> None:
    file = save_tiny(tmp_path / "a.safetensors", change)
    with pytest.raises(
        ExportError, match=rf"eager float32 PyTorch itself gives {what} for [1-4] of 4 pictures"
    ) as error:
        exporter.export(tiny, pretrained=file, out=tmp_path / "b", parity_samples=4)
    assert not isinstance(error.value, ParityGateError)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), min_size=0, max_size=3),
    value=st.sampled_from([float("nan"), float("inf"), float("-inf"), None]),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    place=st.integers(0, 1000),
)
def test_every_place_and_type(shape: list[int], value: float | None, dtype: torch.dtype, place: int) -> None:
    tensor = torch.full(shape, 6e4, dtype=dtype)
    if value is not None and tensor.numel():
        tensor.view(-1)[place % tensor.numel()] = value
    module = torch.nn.Module()
    module.register_parameter("weight", torch.nn.Parameter(tensor))
    # What no checkpoint holds may be infinite: attention masks are.
    module.register_buffer("mask", torch.tensor([0.0, -torch.inf]), persistent=False)
    if value is None or not tensor.numel():
        check_weights(module, ("image", "text"), "x")
    else:
        with pytest.raises(ExportError, match="weight"):
            check_weights(module, ("image", "text"), "x")


def test_many_names_are_counted() -> None:
    module = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(5)))
    for parameter in module.parameters():
        parameter.data.fill_(torch.nan)
    with pytest.raises(
        ExportError, match=r"0.weight \(4 values\), 0.bias \(2 values\), 1.weight \(4 values\) and 7 more \(10 of 10"
    ):
        check_weights(module, ("text",), "the checkpoint of x")


def test_good_embeddings_pass() -> None:
    check_embeddings(np.eye(3, dtype=np.float32), "text")
