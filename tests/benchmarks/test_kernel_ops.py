"""Op benchmarks on a CPU: every implementation that runs there has rows, and the kernels say why they do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import kernel_ops, rows
from benchmarks.kernel_cases import TOWERS, TowerShape, cases_of
from benchmarks.machine import this_machine
from kernels import choices

TINY = TowerShape("tiny text", 7, 64, 2, 128, causal=True)


def test_rows_of_every_op(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_ops, "TOWERS", (TINY,))
    monkeypatch.setattr(kernel_ops, "_ROUND_SECONDS", 1e-4)
    monkeypatch.setattr("benchmarks.kernel_cases._compiled", lambda function, *args: lambda: function(*args))
    found, enough = kernel_ops.run([], [2], "fp32", this_machine(), tmp_path, 2, choices=False)
    assert enough
    assert rows.read(tmp_path / "kernel.csv")
    assert {row.model for row in found} == {
        "attention", "packed_attention", "bias_gelu", "linear_gelu", "add_layer_norm", "l2_normalize"
    }  # fmt: skip
    for row in found:
        assert row.status == "missing" if row.engine == "triton" else row.value is not None
        assert "CUDA tensors only" in row.note if row.engine == "triton" else not row.note
    native = {row.figure for row in rows.select(found, model="attention", engine="native")}
    assert native == {"time", "tflops"}
    known = {row.case for row in found if row.value is not None}
    again, _ = kernel_ops.run([], [2], "fp32", this_machine(), tmp_path, 2, False, is_done=known.__contains__)
    assert not again
    late, enough = kernel_ops.run([], [2], "fp32", this_machine(), tmp_path, 2, False, deadline=0.0)
    assert not late
    assert not enough


@pytest.mark.parametrize("tower", TOWERS, ids=lambda tower: tower.name)
def test_shapes_are_those_of_the_table(tower: TowerShape) -> None:
    """The numbers that `kernels.choices` documents for each op, counted from the tower."""
    for case in cases_of(tower, 3, torch.float16, "cpu"):
        assert choices.shape_text(case.shape).count("x") == len(case.shape) - 1
        numbers = {"attention": 4, "packed_attention": 4, "linear_gelu": 3, "normalize_image": 4}.get(case.op, 2)
        assert len(case.shape) == numbers
        assert case.bytes > 0
    assert tower.width == tower.heads * tower.head_dim


def test_wrong_input(capsys: pytest.CaptureFixture[str]) -> None:
    assert kernel_ops.main(["--device", "cpu", "--choices"]) == 1
    assert "this is a CPU" in capsys.readouterr().err
    assert kernel_ops.main(["--device", "cpu", "--towers", "nothing"]) == 1
    assert "no tower is called nothing" in capsys.readouterr().err
