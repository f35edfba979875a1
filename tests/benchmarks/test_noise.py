"""Reruns and slowdowns of runs in passes that never were: how often compare is wrong."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence
from pathlib import Path

import pytest

from benchmarks.compare import compare, main
from benchmarks.records import rows
from benchmarks.records.estimates import over_passes
from benchmarks.records.rows import Row
from benchmarks.regression.findings import Comparison, describe
from benchmarks.regression.noise import Mean, student, variance_of_median

ENGINES = ("torch.compile", "openvino", "onnxruntime plain", "onnxruntime", "aotinductor")
CASES = [
    (what, model, tower, batch)
    for model in ("demo", "ViT-B-32")
    for what, tower, batch in (
        ("throughput", "image", 1),
        ("throughput", "image", 16),
        ("throughput", "text", 1),
        ("throughput", "text", 16),
        ("end_to_end", "image", 32),
    )
]
few_reruns = pytest.mark.parametrize("reruns", [50, pytest.param(100, marks=pytest.mark.slow)])


def a_run(
    rng: random.Random, sigma: float, slower: str = "", factor: float = 1.0, alone: float = 1.0, passes: int = 3
) -> list[Row]:
    """42 speedups in passes.

    Args:
        rng: random numbers.
        sigma: of a speedup between passes, relative; half of its variance is eager's, the same for all of a case.
        slower: an engine.
        factor: on its speed.
        alone: how much noisier batch 1 is.
        passes: how many.
    """
    found = []
    for what, model, tower, batch in CASES:
        own = sigma / 2**0.5 * (alone if batch == 1 else 1.0)
        eager = [rng.gauss(0, own) for _ in range(passes)]
        for engine in ENGINES if what == "throughput" else ENGINES[-1:]:
            speed = 2.0 * (factor if engine == slower else 1.0)
            each = [speed * math.exp(eager[number] + rng.gauss(0, own)) for number in range(passes)]
            one = over_passes(each, 2 * passes)
            found.append(Row(what, model, "speedup", tower, engine, "fp32", batch, **vars(one)))
    return found


def a_comparison(seed: int, sigma: float, slower: str = "", factor: float = 1.0, alone: float = 1.0) -> Comparison:
    rng = random.Random(seed)
    return compare(a_run(rng, sigma, alone=alone), a_run(rng, sigma, slower, factor, alone=alone))


@few_reruns
@pytest.mark.parametrize(("sigma", "alone"), [(0.03, 1.0), (0.08, 1.0), (0.15, 1.0), (0.03, 3.0)])
def test_a_rerun_in_passes_is_noise(sigma: float, alone: float, reruns: int) -> None:
    first = round(1e5 * sigma * alone)  # other seeds: noise that is larger all over gives the very same verdicts
    found = [a_comparison(first + seed, sigma, alone=alone) for seed in range(reruns)]
    worse = sum(bool(one.worse or one.slower) for one in found) / reruns
    changed = sum(bool(one.worse or one.better or one.slower or one.faster) for one in found) / reruns
    print(f"sigma {sigma}, batch 1 x{alone}: worse in {worse:.1%} of the reruns, worse or better in {changed:.1%}")
    assert len(found[0].compared) == 42
    assert changed < 0.05


@few_reruns
@pytest.mark.parametrize(("sigma", "figures", "least"), [(0.03, 0.95, 1.0), (0.04, 0.8, 1.0), (0.08, 0.0, 0.97)])
@pytest.mark.parametrize("engine", ["onnxruntime", "aotinductor"])
def test_a_slowdown_of_a_fifth_is_found_in_passes(
    sigma: float, figures: float, least: float, engine: str, reruns: int
) -> None:
    found = [a_comparison(seed, sigma, engine, 0.8) for seed in range(reruns)]
    runs = sum(engine in engines_of(one.slower) or any(b.engine == engine for _, b in one.worse) for one in found)
    each = statistics.mean(
        sum(b.engine == engine for _, b in one.worse) / sum(b.engine == engine for _, b in one.compared)
        for one in found
    )
    wrong = sum(
        any(b.engine != engine for _, b in (*one.worse, *one.better))
        or bool(engines_of([*one.slower, *one.faster]) - {engine})
        for one in found
    )
    print(f"sigma {sigma}, {engine}: found in {runs} of {reruns}, {each:.1%} of its figures, others in {wrong}")
    assert runs >= least * reruns
    assert each >= figures
    assert wrong < 0.05 * reruns


def engines_of(means: Sequence[Mean]) -> set[str]:
    return {mean.pairs[0][0].engine for mean in means}


def test_a_drift_of_a_whole_run_that_its_passes_share_is_an_engines() -> None:
    """What slows all figures of an engine by little is seen in their mean, and told once for each model."""
    found = a_comparison(3, 0.03, "openvino", 0.9)
    assert engines_of(found.slower) == {"openvino"}
    text = describe(found)
    assert text.startswith("worse over all its figures:\n  model ")
    assert "of an engine's figures" not in text.split("\n\n")[0]
    assert "10 means over an engine's figures on a model: 2 worse, 0 better, 8 within the noise" in text


def test_what_could_not_be_seen_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = a_comparison(1, 0.15, "onnxruntime", 0.8)
    changed = len(found.worse) + len(found.better)
    assert len(found.unsure) == 42 - changed > 37
    assert f" 0 within the noise, {len(found.unsure)} too noisy to judge one by one" in describe(found)
    assert not a_comparison(1, 0.02).unsure
    assert a_comparison(1, 0.15, "onnxruntime", 0.1).worse  # but what is beyond the noise is said
    rng = random.Random(5)
    for name in ("a", "b"):
        rows.merge(tmp_path / name, [dataclasses.replace(row, machine="here") for row in a_run(rng, 0.5)])
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    shown = capsys.readouterr()
    assert "too noisy to judge, a slowdown of 20 % could not be seen:\n  model " in shown.out
    assert shown.err.startswith("error: all is too noisy to judge")


def test_a_run_without_passes_is_judged_by_its_quartiles() -> None:
    rng = random.Random(0)
    new = a_run(rng, 0.01)
    old = [dataclasses.replace(row, by_pass=()) for row in new]
    slow = [
        dataclasses.replace(r, value=(r.value or 0) * 0.8, low=(r.low or 0) * 0.8, high=(r.high or 0) * 0.8)
        for r in new
    ]
    for before, after in ((old, new), (new, old), (old, old)):
        found = compare(before, after)
        assert (len(found.compared), found.worse, found.better, found.unsure) == (42, [], [], [])
    assert len(compare(old, slow).worse) > 36


@pytest.mark.parametrize(
    ("share", "freedom", "value"),
    [
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 3, 3.182),
        (0.975, 10, 2.228),
        (0.9995, 4, 8.610),
        (0.9995, 30, 3.646),
    ],
)
def test_students_t(share: float, freedom: int, value: float) -> None:
    assert student(share, freedom) == pytest.approx(value, abs=0.001)


def test_the_variance_of_a_median() -> None:
    rng = random.Random(0)
    for count in (2, 3, 4, 5, 9):
        drawn = [statistics.median(rng.gauss(0, 1) for _ in range(count)) for _ in range(20000)]
        assert variance_of_median(count) == pytest.approx(statistics.variance(drawn), rel=0.1)
