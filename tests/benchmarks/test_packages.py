"""Single packages: built and run for real on the CPU; what a GPU may answer instead, by functions in the package's place."""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import pytest
import torch
from aotinductor_bundle import packed_bundle

from benchmarks.harness.keeper import Keeper, Order
from benchmarks.records.machine import this_machine
from benchmarks.records.rows import read
from benchmarks.suites.package_build import Built, PackageCase
from benchmarks.suites.packages import PROFILE, batch_rows, eager_rows, keep_package
from engines.manifest import read_manifest
from exporter.aotinductor.job import CompileJob, CompileResult


def keeper(folder: Path, deadline: float = float("inf"), done: tuple[tuple[str, ...], ...] = ()) -> Keeper:
    return Keeper(Order("", {}, this_machine(), folder, "0123456789", deadline, done))


@pytest.mark.long
@pytest.mark.parametrize("compiles", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_text_tower_takes_packed_captions(
    compiles: bool,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not compiles:
        made = packed_bundle(tmp_path_factory)
        monkeypatch.setattr("exporter.aotinductor.job.run_job", functools.partial(compiled_before, made))
    case = PackageCase("demo", "text", "triton", False, (3, 1), "fp32", seconds=0.01)
    options = {"model": "demo", "tower": "text", "kernels": "triton", "search": False, "batches": [3, 1]}
    options |= {"precision": "fp32", "seconds": 0.01, "eager": True}
    assert keep_package(keeper(tmp_path), **options)
    assert "2 packed_attention" in capsys.readouterr().out
    found = read(tmp_path / "package.csv")
    engines = ("aotinductor triton", "eager")
    assert {(row.batch, row.tower, row.engine) for row in found} == {(n, "text", e) for n in (3, 1) for e in engines}
    rate = {(row.engine, row.batch): row.value for row in found if row.figure == "per_second"}
    ratio = {row.batch: row.value for row in found if row.figure == "speedup"}
    for batch in (3, 1):
        assert ratio[batch] == pytest.approx((rate[engines[0], batch] or 0) / (rate[engines[1], batch] or 1), rel=0.05)
    assert min(row.value or 0 for row in found if row.figure == "min_cosine") > 0.99999
    assert "demo text, aotinductor triton" in (tmp_path / PROFILE).read_text()
    known = tuple(case.key(batch) for batch in case.batches)
    assert keep_package(keeper(tmp_path, done=known), **options)  # and builds nothing
    assert "built" not in capsys.readouterr().out
    assert not keep_package(keeper(tmp_path, deadline=0.0), **options)


def compiled_before(bundle: Path, job: CompileJob) -> CompileResult:
    """The package of the same tower that the exporter made for other tests. Compiling one here is the slow test."""
    (engine,) = read_manifest(bundle).engines
    assert engine.build is not None
    assert Path(job.program).stat().st_size > 1 << 20
    assert "packed" in Path(job.program).name
    assert job.inductor == engine.build.options
    shutil.copyfile(bundle / engine.file, job.package)
    return CompileResult(version=engine.target.version or "", build=engine.build)


def package_case(*batches: int) -> PackageCase:
    return PackageCase("ViT-L-14", "image", "triton", False, batches, "fp16", seconds=0.01)


def test_a_batch_without_room_is_a_row_and_the_next_one_goes_on(tmp_path: Path) -> None:
    unit = torch.nn.functional.normalize(torch.ones(8, 4), dim=1)
    built = Built(tmp_path / "x.pt2", lambda count: [torch.ones(count, 4)], unit, 2.0, "24 attention")

    def run(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        if len(inputs[0]) == 256:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return [torch.nn.functional.normalize(inputs[0], dim=1)]

    case = package_case(256, 32)
    (full,) = batch_rows(case, built, 256, run, tmp_path, "cpu")
    assert full.status == "failed"
    assert full.note.startswith("CUDA out of memory")
    found = {row.figure: row for row in batch_rows(case, built, 32, run, tmp_path, "cpu")}
    assert set(found) >= {"time", "per_second", "tflops", "min_cosine", "build_seconds"}
    assert found["min_cosine"].value == pytest.approx(1.0)
    assert found["tflops"].value == pytest.approx((found["per_second"].value or 0) * 0.162, rel=0.01)


def test_eager_without_room_is_a_row_and_has_no_speedup(tmp_path: Path) -> None:
    times = {
        ("fp32", 256): "CUDA out of memory",
        ("fp16", 256): [0.1] * 3,
        ("fp32", 32): [0.2] * 3,
        ("fp16", 32): [0.1] * 3,
    }
    built = Built(tmp_path / "x.pt2", lambda count: [], torch.ones(1, 4), 2.0, "", times)
    found = eager_rows(package_case(256, 32), built, tmp_path)
    assert [(row.precision, row.batch, row.note) for row in found if row.value is None] == [
        ("fp32", 256, "CUDA out of memory")
    ]
    assert {(row.precision, row.batch): row.value for row in found if row.figure == "speedup"} == {("fp16", 32): 2.0}
    assert {row.engine for row in found} == {"eager"}


@pytest.mark.parametrize("bad", [-1.0, float("nan")])
def test_a_package_that_computes_something_else_has_no_time(tmp_path: Path, bad: float) -> None:
    unit = torch.nn.functional.normalize(torch.ones(8, 4), dim=1)
    built = Built(tmp_path / "x.pt2", lambda count: [torch.ones(count, 4)], unit, 2.0, "")
    (row,) = batch_rows(package_case(32), built, 32, lambda inputs: [bad * inputs[0]], tmp_path, "cpu")
    assert row.status == "failed"
    assert row.note.startswith("wrong: a cosine of ")
