"""What a GPU's package needs: one sentence for each thing that is missing, and CUDA found where PyTorch would not look."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch

from engines.device.gpu import Gpu
from exporter.aotinductor import gpu_needs, job, worker
from exporter.aotinductor.gpu_needs import build_environment, cuda_home, gpu_problem, library_file, serves
from exporter.errors import ExportError

H100 = Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), (13, 0))


@pytest.mark.parametrize(
    ("archs", "capability", "expected"),
    [
        ("sm_80 sm_90", (9, 0), True),
        ("sm_80 sm_90a", (9, 0), True),
        ("sm_80", (8, 6), True),
        ("sm_86", (8, 0), False),
        ("sm_80", (9, 0), False),
        ("sm_80 compute_80", (9, 0), True),
        ("sm_75 sm_80 compute_90", (8, 9), True),
        ("sm_75 compute_120", (7, 0), False),
        ("sm_75 sm_100", (12, 0), False),
        ("", (9, 0), False),
    ],
)
def test_which_gpus_a_build_serves(archs: str, capability: tuple[int, int], expected: bool) -> None:
    assert serves(archs.split(), capability) is expected


def missing(monkeypatch: pytest.MonkeyPatch, gpu: Gpu, built: str | None = "13.0", archs: str = "sm_80 sm_90") -> str:
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: archs, raising=False)
    problem = gpu_problem(gpu)
    assert problem is not None
    assert "\n" not in problem
    return problem


def test_a_pytorch_without_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    said = missing(monkeypatch, H100, built=None)
    assert said == f"a PyTorch with CUDA, and {torch.__version__} has none: install a build for CUDA 13"


def test_a_driver_that_is_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    said = missing(monkeypatch, Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), (12, 4)))
    assert said == (
        "a driver for CUDA 13.0, which this PyTorch was built for, and the one of NVIDIA H100 80GB HBM3 knows CUDA up to 12.4: "
        "update the driver, or install a PyTorch for CUDA 12"
    )


def test_nothing_is_compiled_where_something_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    missing(monkeypatch, old := Gpu(0, "NVIDIA H100 80GB HBM3", (9, 0), (12, 4)))
    monkeypatch.setattr(job, "find_gpu", lambda: old)
    package = tmp_path / "image-sm90.pt2"
    wanted = job.CompileJob(program="none.pt2", package=str(package), cuda=True, isa="avx2", inductor={})
    with pytest.raises(ExportError, match=r"^engine aotinductor needs a driver for CUDA 13\.0"), job.compiling(wanted):
        pass


def test_an_architecture_that_pytorch_was_not_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    said = missing(monkeypatch, Gpu(0, "Tesla V100", (7, 0), (13, 0)))
    assert said.startswith(
        f"a PyTorch for sm70, and {torch.__version__} was built for sm_80 sm_90: install a build that"
    )


def test_no_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_needs, "_homes", lambda: iter([tmp_path]))
    said = missing(monkeypatch, H100)
    assert said.startswith("CUDA's headers (cuda.h, cuda_runtime.h, ")
    assert said.endswith("install the CUDA toolkit 13.0, or set CUDA_HOME to where it is")


def headers(folder: Path) -> Path:
    (folder / "include").mkdir(parents=True)
    for name in gpu_needs._HEADERS:
        (folder / "include" / name).touch()
    return folder


def test_nothing_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_HOME", str(headers(tmp_path)))
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch._C, "_cuda_getArchFlags", lambda: "sm_90", raising=False)
    assert gpu_problem(H100) is None


def test_headers_are_found_behind_another_nvcc(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """PyTorch takes the folder above the first nvcc of PATH for CUDA's: it has no headers where that is a script or a link."""
    toolkit = headers(tmp_path / "cuda-13.0")
    for place in (tmp_path / "bin", toolkit / "bin"):
        place.mkdir()
        (place / "nvcc").write_text("#!/bin/sh\n", encoding="utf-8")
        (place / "nvcc").chmod(0o755)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert toolkit not in list(gpu_needs._homes())
    (tmp_path / "bin" / "nvcc").unlink()
    (tmp_path / "bin" / "nvcc").symlink_to(toolkit / "bin" / "nvcc")
    assert cuda_home() == toolkit
    monkeypatch.setenv("CUDA_HOME", str(headers(tmp_path / "own")))
    assert cuda_home() == tmp_path / "own"


def test_the_drivers_library_can_be_linked_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine with a driver and no toolkit has libcuda.so.1 alone; here another library of that kind stands for it."""
    monkeypatch.setattr(gpu_needs, "_DRIVER", "libm.so.6")
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    found = build_environment(tmp_path)
    command = [job.compiler(), "-shared", "-x", "c++", os.devnull, "-lcuda", "-o", str(tmp_path / "x.so")]
    environment = {name: value for name, value in os.environ.items() if name != "LIBRARY_PATH"}
    linked = subprocess.run(command, env=environment | found, capture_output=True, text=True, check=False)
    assert linked.returncode == 0, linked.stderr
    assert (tmp_path / "x.so").is_file()


def test_files_of_libraries() -> None:
    found = library_file("libm.so.6")
    assert found is not None
    assert found.name.startswith("libm")
    assert library_file("libno-such-library.so.1") is None


@pytest.mark.skipif(cuda_home() is None, reason="CUDA's headers are not installed")
def test_the_headers_that_are_found_fit_together(tmp_path: Path) -> None:
    source = tmp_path / "x.cpp"
    source.write_text("".join(f"#include <{name}>\n" for name in gpu_needs._HEADERS), encoding="utf-8")
    command = [job.compiler(), "-E", "-I", f"{cuda_home()}/include", str(source), "-o", os.devnull]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


class Float8Product(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.to(torch.float8_e4m3fn)
        one = torch.ones(())
        return torch._scaled_mm(rows, rows.t(), one, one, out_dtype=torch.float32)


def test_float8_on_a_gpu_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program = torch.export.export(Float8Product(), (torch.ones(32, 32),), strict=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    with pytest.raises(
        ValueError, match=r"need compute capability 8\.9 or newer, and this GPU has 8\.0: pass --int8 or"
    ):
        worker._refuse_float8(program)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 9))
    worker._refuse_float8(program)
