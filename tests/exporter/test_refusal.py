"""exporter.gate.refusal: a refusal blames what is known to be wrong, and its remedy exists."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest

from engines.manifest import Accuracy, Interval, Limits, Parity, TowerName, TowerParity
from engines.verification.embeddings import top1_agreement
from exporter.gate.evaluate import refusal as evaluation_refusal
from exporter.gate.float64_gate import failing_inputs
from exporter.gate.refusal import refusal
from exporter.reference.eager import Reference

LIMITS = Limits(min_cosine=0.999, mean_cosine=0.9995, top1_agreement=0.95)


def row(engine: str, passed: bool) -> Parity:
    cosine = 1.0 if passed else 0.9
    towers: dict[str, TowerParity] = {
        "image": TowerParity(samples=4, min_cosine=cosine, mean_cosine=cosine, max_abs_error=0.1)
    }
    return Parity(engine=engine, verified_with="x", towers=towers, top1_agreement=None, limits=LIMITS, passed=passed)


def test_nothing_is_wider_than_float32() -> None:
    said = str(refusal([row("onnxruntime", False)], "fp32", {"onnxruntime": "the worst inputs are number 3"}))
    assert "wider" not in said
    assert "the worst inputs are number 3" in said
    assert "try another --engine" in said


@pytest.mark.parametrize(
    ("precision", "wider"), [("fp16", "--fp32"), ("bf16", "--fp16"), ("int8", "--fp16"), ("fp8", "--fp16")]
)
def test_a_wider_precision_is_named(precision: str, wider: str) -> None:
    assert wider in str(refusal([row("onnxruntime", False)], precision, {}))


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_nan_is_more_than_a_loss_of_accuracy(precision: str) -> None:
    good = row("openvino", False)
    nan = msgspec.structs.replace(good.towers["image"], min_cosine=-1.0, max_abs_error=math.inf)
    rows = [good, msgspec.structs.replace(good, engine="onnxruntime", towers={"image": nan})]
    said = str(refusal(rows, precision, {}))
    assert "engine onnxruntime" in said
    assert "gives NaN or infinity, which eager does not" in said
    assert "--allow-accuracy-loss" not in said


@pytest.mark.parametrize(
    ("precision", "advised"), [("fp32", "another --engine"), ("fp16", "--fp32"), ("int8", "calibrate")]
)
def test_a_labelled_task_that_lost_too_much(precision: str, advised: str) -> None:
    lost = Accuracy(
        engine="onnxruntime",
        verified_with="x",
        dataset="pictures",
        samples=10,
        classes=2,
        eager={"top1": Interval(value=0.9, low=0.8, high=1.0)},
        figures={"top1": Interval(value=0.5, low=0.4, high=0.6)},
        change={"top1": Interval(value=-0.4, low=-0.5, high=-0.3)},
        limit=0.005,
        passed=False,
    )
    said = str(evaluation_refusal([lost], precision))
    assert advised in said
    assert ("wider" in said) == (precision != "fp32")
    assert ("calibrate" in said) == (precision == "int8")


def test_the_simulation_is_no_engine() -> None:
    said = str(refusal([row("simulation", False), row("onnxruntime", True)], "fp16", {}))
    assert said.startswith("fp16 arithmetic, simulated layer by layer, does not give")
    assert "engine simulation" not in said
    assert "--fp32" in said


def test_an_engine_that_is_worse_than_its_simulation() -> None:
    said = str(refusal([row("simulation", True), row("tensorrt", False)], "fp16", {}))
    assert "the engine rather than the precision is to blame" in said
    assert "try another --engine" in said


def test_another_best_caption_singles_out_image_and_captions() -> None:
    image = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
    text = np.array([[1, 0, 0], [0, 1, 0], [0, 0.999, 0.0447]], np.float32)
    embeds: dict[TowerName, np.ndarray] = {"image": image, "text": text[[0, 2, 1]]}
    references: dict[TowerName, Reference] = {"image": Reference(image, image), "text": Reference(text, text)}
    good = {name: TowerParity(samples=2, min_cosine=1, mean_cosine=1, max_abs_error=0) for name in ("image", "text")}
    agreement = top1_agreement(image, text, embeds["image"], embeds["text"], LIMITS.tie_margin)
    assert agreement == 0.5
    found = failing_inputs(good, references, embeds, LIMITS, agreement)
    assert found["image"] == [1]
    assert sorted(found["text"]) == [1, 2]
