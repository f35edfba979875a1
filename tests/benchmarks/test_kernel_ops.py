"""Op benchmarks on a CPU: every implementation that runs there has rows, and the kernels say why they do not."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import kernel_ops
from benchmarks.kernel_timing.calls import Work
from benchmarks.kernel_timing.cases import OPS, TOWERS, KernelCase, TowerShape, cases_of, towers_named
from benchmarks.kernel_timing.measurement import measure_case
from benchmarks.records import rows
from benchmarks.records.machine import stamp, this_machine
from benchmarks.records.rows import Row
from benchmarks.suites.definitions import SUITES, Kernels
from kernels import choices

STAND_INS = ["stand-in image", "stand-in text"]
IMAGE, TEXT = towers_named(STAND_INS)


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """A folder with the ceilings of this very run."""
    ceilings = [
        Row("ceiling", "matmul", "tflops", engine="torch", precision="fp32", value=0.5),
        Row("ceiling", "copy", "gbytes_per_second", engine="torch", value=10.0),
    ]
    rows.merge(tmp_path, stamp(ceilings, this_machine()))
    return tmp_path


def run(results: Path, **options: object) -> tuple[list[Row], bool]:
    given = {"ops": (), "round_seconds": 1e-4} | options
    return kernel_ops.run(STAND_INS, [2], "fp32", this_machine(), results, 2, **given)  # type: ignore[arg-type]


def test_rows_of_every_op(results: Path) -> None:
    found, enough = run(results)
    assert enough
    assert rows.read(results / "kernel.csv")
    assert {row.model for row in found} == set(OPS) - {"rotary_attention", "masked_attention"}
    ours = ("triton", "bias_gelu", "linear_gelu", "normalize_image")
    for row in found:
        if row.engine.startswith(ours):
            assert row.status == "missing"
            assert "CUDA tensors only" in row.note
        else:
            assert row.value is not None
            assert not row.note
    native = {row.figure: row.value for row in rows.select(found, model="causal_attention", engine="native")}
    assert set(native) == {"time", "tflops", "fraction_of_ceiling", "relative_error"}
    assert native["fraction_of_ceiling"] == pytest.approx((native["tflops"] or 0) / 0.5, rel=1e-9)
    moved = {row.figure for row in rows.select(found, model="add_layer_norm", engine="eager")}
    assert moved == {"time", "speedup", "gbytes_per_second", "fraction_of_ceiling", "relative_error"}
    known = {row.case for row in found if row.value is not None}
    again, _ = run(results, is_done=known.__contains__)
    assert not again
    late, enough = run(results, deadline=0.0)
    assert not late
    assert not enough


def test_ops_are_chosen_by_name(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = functools.partial(kernel_ops.measure_ceilings, sizes=(64,))
    monkeypatch.setattr(kernel_ops, "measure_ceilings", small)
    monkeypatch.setattr(kernel_ops, "_CEILING_SECONDS", 1e-3)
    found, _ = run(results, ops=("patches", "packed_attention"), run_commit="abc+")
    assert {row.model for row in found} == {"patches", "packed_attention"}
    assert {row.commit for row in found} == {"abc+"}
    ceiling = {row.commit for row in rows.read(results / "ceiling.csv") if row.model == "copy"}
    assert ceiling == {"abc+"}  # those of another commit are not this run's: measured anew


def test_what_is_wrong_has_no_time(results: Path) -> None:
    """An implementation that is fast because it computes something else must not win."""
    (case,) = (case for case in cases_of(TEXT, 2, torch.float32, "cpu") if case.op == "add_layer_norm")

    def make() -> Work:
        work = case.make()
        total, normalized = work.calls["eager"]()
        calls = {
            "native": work.calls["native"],
            "eager": work.calls["eager"],
            "triton": lambda: (total, 1.001 * normalized),
            "not a number": lambda: (total, normalized / 0 * 0),
        }
        return replace(work, calls=calls)

    found = measure_case(replace(case, make=make), "cpu", 2, 1e-4)
    assert set(found.seconds) == {"native", "eager"}
    assert found.problems["triton"].why.startswith("wrong: its error against float64 is 0.001, more than the ")
    made = kernel_ops.case_rows(case, "t", "fp32", 2, found, {})
    assert {row.engine: row.status for row in made if row.value is None} == {
        "triton": "failed",
        "not a number": "failed",
    }


def test_what_fails_in_any_way_costs_itself_alone(results: Path) -> None:
    """Triton's errors, such as a tile that asks for too much shared memory, have no class in common with PyTorch's."""
    (case,) = (case for case in cases_of(TEXT, 2, torch.float32, "cpu") if case.op == "l2_normalize")

    class OutOfResourcesError(Exception):
        pass

    def fails() -> None:
        raise OutOfResourcesError("out of resource: shared memory")

    def make(*names: str) -> Work:
        return replace(case.make(), calls=dict.fromkeys(names, fails) | {"eager": case.make().calls["eager"]})

    found = measure_case(replace(case, make=lambda: make("triton")), "cpu", 2, 1e-4)
    assert set(found.seconds) == {"eager"}
    made = kernel_ops.case_rows(case, "t", "fp32", 2, found, {})
    assert {row.engine: row.status for row in made if row.value is None} == {"triton": "failed"}
    everything = measure_case(replace(case, make=lambda: make("triton", "native", "eager")), "cpu", 2, 1e-4)
    assert set(everything.seconds) == {"eager"}
    nothing = measure_case(replace(case, make=lambda: replace(case.make(), calls={"native": fails})), "cpu", 2, 1e-4)
    assert not nothing.seconds
    assert set(nothing.problems) == {"native"}


def test_small_cases_are_not_held_to_the_rate_of_memory(results: Path) -> None:
    (case,) = (case for case in cases_of(TEXT, 2, torch.float32, "cpu") if case.op == "l2_normalize")
    found = measure_case(case, "cpu", 2, 1e-4)
    for cache, share in ((int(case.bytes), False), (int(case.bytes) // 3, True)):
        figures = {row.figure for row in kernel_ops.case_rows(case, "t", "fp32", 2, found, {"copy": 10.0}, cache)}
        assert ("fraction_of_ceiling" in figures) is share


def test_a_case_without_room_is_a_row(results: Path) -> None:
    (case,) = (case for case in cases_of(TEXT, 2, torch.float32, "cpu") if case.op == "l2_normalize")

    def make() -> Work:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nGPU 0 …")

    found, _ = kernel_ops._one(replace(case, make=make), "t", "fp32", 2, this_machine(), 2, 1e-4, {}, "abc")
    assert [(row.engine, row.status, row.value) for row in found] == [("native", "failed", None)]
    assert "Tried to allocate 20.00 GiB" in found[0].note


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.name)
def test_shapes_are_those_of_the_table(tower: TowerShape) -> None:
    """The numbers that `kernels.choices.SHAPES` names for each op, counted from the tower."""
    found: list[KernelCase] = list(cases_of(tower, 3, torch.float16, "cpu"))
    for case in found:
        assert case.op in OPS
        assert choices.shape_text(case.shape).count("x") == len(case.shape) - 1
        assert len(case.shape) == len(choices.SHAPES[case.op])
        assert case.bytes > 0
    assert sum("attention" in case.op and "packed" not in case.op for case in found) == 1
    assert tower.width == tower.heads * tower.head_dim


def test_the_gpu_suite_times_every_op() -> None:
    """But those that none of its towers has."""
    steps = [step for part in SUITES["gpu"].parts.values() for step in part if isinstance(step, Kernels)]
    assert {op for step in steps for op in step.ops} == set(OPS) - {"rotary_attention", "masked_attention", "quick_mlp"}


def test_stand_ins_are_taken_only_by_name() -> None:
    assert not any(tower.stand_in for tower in (*towers_named([]), *towers_named(["image"])))
    assert [tower.name for tower in towers_named(STAND_INS)] == STAND_INS
    assert IMAGE.patch
    assert TEXT.causal


def test_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernel_ops.main(["--device", "cpu", "--choices"]) == 1
    assert "this is a CPU" in capsys.readouterr().err
    assert kernel_ops.main(["--device", "cpu", "--towers", "nothing"]) == 1
    assert "no tower is called nothing" in capsys.readouterr().err
    assert kernel_ops.main(["--device", "cpu", "--ops", "dance"]) == 1
    assert "no op is called dance: attention, " in capsys.readouterr().err
