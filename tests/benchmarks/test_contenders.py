"""What a contender, or a report, says where a library that it needs is not installed, or is installed and broken."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_libraries import BREAKAGES, answer_of, break_library

CODE = """
from benchmarks.contenders import missing_library
answer([missing_library({0!r}), missing_library({0!r}), missing_library("json", "a_library_that_is_missing")])
"""


@pytest.mark.parametrize("code", BREAKAGES)
def test_a_broken_library_is_a_reason(code: str, tmp_path: Path) -> None:
    first, second, missing = answer_of(CODE.format("openvino"), break_library(tmp_path, "openvino", code))
    assert first == second
    if code == "import a_part_of_it_that_is_missing":
        assert first == "not installed: a_part_of_it_that_is_missing"
    else:
        assert first.startswith("openvino cannot be imported: ")
        assert first.endswith(BREAKAGES[code])  # before it, a syntax error names its place
    assert missing == "not installed: a_library_that_is_missing"


REPORT = """
from benchmarks import report
from benchmarks.harness import energy, worker
from benchmarks.records import machine
from benchmarks.reporting import drawing
from benchmarks.records.rows import Row
measured = [Row("ceiling", "gemm", "tflops", value=1.0), Row("throughput", "ViT-B-32", "per_second", value=1.0)]
without = [energy.read_joules("cuda"), worker._device_free(), report.count_works([measured])]
answer([machine.gpu_problem(), drawing.available(), *without])
"""


@pytest.mark.parametrize(
    "code", ["raise RuntimeError('broken')", "raise ImportError('broken')", "raise SystemExit('broken')"]
)
def test_a_report_does_without_broken_libraries(code: str, tmp_path: Path) -> None:
    for name in ("torch", "matplotlib", "pynvml"):
        break_library(tmp_path, name, code)
    gpu, plots, joules, free, works = answer_of(REPORT, tmp_path)
    assert "cannot be imported" in gpu
    assert "cannot be imported" in plots
    assert (joules, free, works) == (None, 0, {})
