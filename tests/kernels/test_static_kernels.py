"""Every kernel compiles for GPUs that are not here, keeps to its registers and fits a multiprocessor; the table of that."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from benchmarks import kernels_static
from benchmarks.records.csv_file import read_rows
from benchmarks.records.table_files import KERNELS_STATIC
from kernels import static
from kernels.static import StaticCase, compile_static, modules

pytest.importorskip("triton")
MODULES = modules()


def test_every_launcher_has_cases() -> None:
    files = (Path(static.__file__).parent).glob("triton_*.py")
    assert sorted(file.stem for file in files if "launchable(" in file.read_text(encoding="utf-8")) == MODULES


def assert_lean(case: StaticCase, arch: int) -> None:
    report = compile_static(case, arch)
    assert report.spills == 0, f"{case.label} on sm_{arch}: {report}"
    assert report.occupancy > 0, f"{case.label} on sm_{arch}: {report}"


# Every kernel for Hopper, those that fill the register file for the others too.
SAMPLE = [(module, 90) for module in MODULES]
SAMPLE += [(module, arch) for module in ("triton_attention", "triton_linear_gelu") for arch in (80, 100)]


@pytest.mark.parametrize(("module", "arch"), SAMPLE)
def test_a_case_of_each_kernel_does_not_spill(module: str, arch: int) -> None:
    cases = [case for case in import_module(f"kernels.{module}").static_cases() if arch in case.archs]
    # linear_gelu's second configuration has its largest tile.
    of_largest = [case for case in cases if "none tile=128x256x64" in case.label]
    assert_lean((of_largest or cases)[0], arch)


@pytest.mark.slow
@pytest.mark.parametrize("arch", kernels_static.ARCHITECTURES)
@pytest.mark.parametrize("module", MODULES)
def test_no_case_spills(module: str, arch: int) -> None:
    for case in import_module(f"kernels.{module}").static_cases():
        if arch in case.archs:
            assert_lean(case, arch)


@pytest.mark.parametrize("module", MODULES)
def test_cases_have_names_of_their_own(module: str) -> None:
    cases = kernels_static.all_cases([module])
    assert cases
    names = [(kernel, case.label) for kernel, case in cases]
    assert len(set(names)) == len(names)
    assert {kernels_static.dtype_of(case) for _, case in cases} <= {"fp16", "bf16", "fp32"}


def test_a_run_keeps_its_rows_and_drops_those_of_cases_that_are_gone(tmp_path: Path) -> None:
    path = tmp_path / "static.csv"
    others = [
        {"kernel": "l2_normalize", "case": "C=1 fp16", "arch": "sm_90", "registers": 1},
        {"kernel": "attention", "case": "L=1 fp16", "arch": "sm_90", "registers": 1},
    ]
    KERNELS_STATIC.upsert(path, others)
    assert kernels_static.main(["--op", "l2_normalize", "--out", str(path)]) == 0
    rows = read_rows(path)
    assert [row["kernel"] for row in rows if row["case"] == "L=1 fp16"] == ["attention"]
    ours = [row for row in rows if row["kernel"] == "l2_normalize"]
    assert {row["arch"] for row in ours} == {"sm_80", "sm_90", "sm_100"}
    assert {row["spills"] for row in ours} == {"0"}
    assert all(0 < int(row["registers"]) <= 255 and 0 < float(row["occupancy"]) <= 1 for row in ours)
    assert "C=1 fp16" not in {row["case"] for row in rows}


def test_a_case_that_spills_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"kernel": "l2_normalize", "case": "C=8 fp16", "arch": "sm_90", "spills": 48, "occupancy": "0.50"}
    monkeypatch.setattr(kernels_static, "measure", lambda *_: iter([bad]))
    assert kernels_static.main(["--op", "l2_normalize", "--out", str(tmp_path / "static.csv")]) == 1
    assert "l2_normalize C=8 fp16 sm_90: spills 48 bytes a thread" in capsys.readouterr().out


def test_the_interpreter_leaves_nothing_to_compile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels_static.main([]) == 1
    assert "unset it" in capsys.readouterr().err
