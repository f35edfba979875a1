"""compare: a real change is found, noise is not, and what cannot be compared is named."""

from __future__ import annotations

import dataclasses
import random
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_rows import CPU, GPU, others, quartiles, speeds

from benchmarks import compare as compare_module
from benchmarks.compare import compare, judge, main
from benchmarks.records import rows
from benchmarks.records.rows import Row
from benchmarks.regression.findings import describe

SPEEDUP = Row(
    "throughput", "demo", "speedup", tower="image", engine="onnxruntime", precision="fp32", batch=16, value=2.0
)
TOP1 = Row("zero_shot", "demo", "top1", engine="onnxruntime", precision="fp32", shape="renders", value=0.978)


def box(row: Row, value: float, height: float) -> Row:
    return dataclasses.replace(row, value=value, low=value - height / 2, high=value + height / 2, repeats=9)


@settings(deadline=None, max_examples=15, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from([0.003, 0.01, 0.03]))
def test_a_rerun_is_noise(seed: int, noise: float) -> None:
    """37 speedups of a CPU, 84 of a GPU."""
    for machine in (CPU, GPU):
        found = compare(speeds(machine, seed, noise), speeds(machine, seed + 1, noise))
        assert len(found.compared) > 30
        assert not found.worse, describe(found)
        assert not found.better, describe(found)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(st.integers(0, 2**32), st.sampled_from([0.003, 0.01, 0.03]))
def test_a_slowdown_of_a_fifth_is_found(seed: int, noise: float) -> None:
    found = compare(speeds(CPU, seed, noise), speeds(CPU, seed + 1, noise, slower={"onnxruntime": 0.8}))
    assert {b.engine for _, b in found.worse} == {"onnxruntime"}
    slowed = [pair for pair in found.compared if pair[0].engine == "onnxruntime"]
    assert len(found.worse) >= 0.9 * len(slowed)
    assert not found.better


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        (box(SPEEDUP, 2.0, 0.02), box(SPEEDUP, 1.6, 0.02), "worse"),
        (box(SPEEDUP, 2.0, 0.02), box(SPEEDUP, 2.4, 0.02), "better"),
        (box(SPEEDUP, 2.0, 0.02), box(SPEEDUP, 1.92, 0.02), "same"),  # 4 %
        (box(SPEEDUP, 2.0, 0.30), box(SPEEDUP, 1.6, 0.30), "same"),  # the widened boxes overlap
        (SPEEDUP, dataclasses.replace(SPEEDUP, value=1.7), "same"),  # no quartiles: four times the threshold
        (SPEEDUP, dataclasses.replace(SPEEDUP, value=1.5), "worse"),
        (box(TOP1, 0.978, 0.018), box(TOP1, 0.950, 0.026), "worse"),  # 3 %, but beyond its confidence
        (box(TOP1, 0.978, 0.018), box(TOP1, 0.965, 0.022), "same"),
        (box(TOP1, 0.950, 0.026), box(TOP1, 0.978, 0.018), "better"),
        (TOP1, dataclasses.replace(TOP1, value=0.9), "worse"),
        (TOP1, dataclasses.replace(TOP1, value=0.95), "same"),
        (
            box(dataclasses.replace(TOP1, figure="top1_change"), 0.0, 0.002),
            box(dataclasses.replace(TOP1, figure="top1_change"), -0.005, 0.002),
            "worse",
        ),
    ],
)
def test_rules(before: Row, after: Row, verdict: str) -> None:
    assert judge(before, after, 0.05) == verdict


@pytest.mark.parametrize(
    ("figure", "before", "after", "verdict"),
    [
        ("min_cosine", 0.999998, 0.999994, "same"),
        ("min_cosine", 0.9998, 0.9997, "same"),
        ("min_cosine", 0.9999, 0.9995, "worse"),
        ("mean_cosine", 0.9995, 0.9999, "better"),
        ("max_abs_error", 1e-7, 9e-6, "same"),
        ("max_abs_error", 1e-4, 5e-4, "worse"),
        ("max_abs_error", 5e-4, 1e-4, "better"),
        ("p50", 1.0, 1.3, "worse"),
        ("p50", 1.0, 0.7, "better"),
    ],
)
def test_errors_and_what_is_better_lower(figure: str, before: float, after: float, verdict: str) -> None:
    a, b = (Row("parity", "demo", figure, value=value) for value in (before, after))
    assert judge(a, b, 0.05) == verdict


def test_a_lucky_box_is_widened_as_the_usual_one() -> None:
    before, after = box(SPEEDUP, 2.0, 0.001), box(SPEEDUP, 1.85, 0.001)
    assert judge(before, after, 0.05) == "worse"
    assert judge(before, after, 0.05, usual_a=0.06, usual_b=0.06) == "same"


def test_absolute_figures_only_when_asked() -> None:
    slow = [
        dataclasses.replace(r, value=r.value / 3, low=None, high=None)
        for r in speeds()
        if r.value and r.figure == "per_second"
    ]
    fast = [dataclasses.replace(r, low=None, high=None) for r in speeds()]
    slow += [r for r in fast if r.figure == "speedup"]
    assert not compare(fast, slow).worse
    assert {b.figure for _, b in compare(fast, slow, absolute=True).worse} == {"per_second"}


def test_what_cannot_be_compared_is_named() -> None:
    before = [box(dataclasses.replace(SPEEDUP, batch=b, machine=CPU), 2.0, 0.02) for b in (1, 2, 3, 4, 5)]
    rates = [dataclasses.replace(row, figure="per_second") for row in before]
    failed = dataclasses.replace(rates[0], value=None, low=None, high=None, status="failed", note="RuntimeError: boom")
    missing = dataclasses.replace(failed, batch=2, status="missing", note="not installed")
    elsewhere = dataclasses.replace(before[2], machine=GPU)
    new = dataclasses.replace(before[4], batch=64)
    found = compare(before + rates, [failed, missing, elsewhere, before[4], new])
    text = describe(found)
    assert "failed now:\n  throughput demo image onnxruntime fp32 1: RuntimeError: boom" in text
    assert "missing now:\n  throughput demo image onnxruntime fp32 2: not installed" in text
    assert f"of another machine, not compared: 1 figures ({CPU} → {GPU})" in text
    assert "not measured again:\n  throughput demo image onnxruntime fp32 4" in text
    assert "new:\n  throughput demo image onnxruntime fp32 64" in text
    assert text.endswith("1 figures compared: 0 worse, 0 better, 1 within the noise")


def test_an_older_speedup_beside_a_failure_does_not_count() -> None:
    a = box(SPEEDUP, 2.0, 0.02)
    failed = dataclasses.replace(a, figure="per_second", value=None, low=None, high=None, status="failed", note="boom")
    found = compare([a], [a, failed])
    assert (len(found.compared), len(found.failed)) == (0, 1)


def test_eager_over_itself_is_skipped() -> None:
    eager = [dataclasses.replace(SPEEDUP, engine="eager", value=value) for value in (1.0, 0.5)]
    assert not compare(eager[:1], eager[1:]).compared


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b, c = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    rows.merge(a, [*speeds(seed=1), *others()])
    rows.merge(b, [*speeds(seed=2, slower={"onnxruntime": 0.8}), *others()])
    c.mkdir()
    assert main([str(a), str(a)]) == 0
    assert "0 worse, 0 better" in capsys.readouterr().out
    assert main([str(a), str(b)]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("worse:")
    assert "onnxruntime fp32" in shown
    assert "-20." in shown or "-19." in shown
    assert main([str(b), str(a)]) == 0
    assert capsys.readouterr().out.startswith("better:")
    rows.write_parquet(tmp_path / "b.parquet", rows.read(b))
    assert main([str(a / "throughput.csv"), str(tmp_path / "b.parquet")]) == 1
    for wrong in (str(c), str(tmp_path / "nowhere"), "no-such-revision:benchmarks"):
        capsys.readouterr()
        assert main([str(a), wrong]) == 2
        assert capsys.readouterr().err.startswith("error: ")
    rows.merge(tmp_path / "gpu", speeds(GPU))
    assert main([str(a), str(tmp_path / "gpu")]) == 2
    assert "have no figure in common" in capsys.readouterr().err
    for usage in ([str(a)], [str(a), str(b), "--threshold", "5"], [str(a), str(b), "--threshold", "x"]):
        with pytest.raises(SystemExit, match="2"):
            main(usage)


def test_a_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare_module, "__file__", str(tmp_path / "benchmarks" / "compare.py"))
    rows.merge(tmp_path / "results" / "cpu", speeds(seed=1))

    def git(*words: str) -> None:
        name = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        subprocess.run(["git", "-C", str(tmp_path), *name, *words], check=True, capture_output=True)

    git("init")
    git("add", ".")
    git("commit", "-m", "rows")
    rows.merge(tmp_path / "results" / "cpu", speeds(seed=2, slower={"onnxruntime": 0.8}))
    assert main(["HEAD:results/cpu", str(tmp_path / "results" / "cpu")]) == 1
    assert main(["HEAD:results/cpu", "HEAD:results/cpu/throughput.csv"]) == 0


def test_made_up_noise_is_what_it_says() -> None:
    rng = random.Random(0)
    heights = [(q["high"] - q["low"]) / q["value"] for q in (quartiles(rng, 2.0, 0.03) for _ in range(400))]
    assert sum(heights) / len(heights) == pytest.approx(1.35 * 0.03, rel=0.2)
