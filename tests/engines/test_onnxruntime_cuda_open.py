"""Opening ONNX Runtime's tower on a GPU: the provider, its libraries, nodes on the CPU, options; on a pretended driver."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeDriver
from onnxruntime_on_cuda import NotedSession, pixels_of

from engines import errors
from engines.device.cuda import Cuda
from engines.manifest import read_manifest
from engines.onnxruntime.cuda_session import OnnxRuntimeCudaTower
from engines.onnxruntime.options import cuda_options
from engines.runtimes import onnxruntime as run_onnxruntime
from engines.runtimes.onnxruntime import OnnxRuntimeTower, open_tower


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """A GPU as far as the runtime's own questions go; ONNX Runtime's CUDA provider is not there."""
    driver = FakeDriver()
    monkeypatch.setattr(run_onnxruntime, "gpu_missing", lambda: None)
    monkeypatch.setattr(
        onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
    )
    monkeypatch.setattr(run_onnxruntime, "Cuda", lambda number: Cuda(number, driver))
    return driver


def open_image(bundle: Path, device: str, **options: Any) -> Any:
    manifest = read_manifest(bundle)
    engine = next(e for e in manifest.engines if e.tower == "image" and e.kind == "onnxruntime")
    return open_tower(bundle, engine, manifest.towers["image"], manifest.precision, device, **options)


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
def test_a_provider_that_does_not_start(
    demo_bundle: Path, pretended: FakeDriver, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(errors.EngineUnavailableError, match="CUDA provider did not start"):
        open_image(demo_bundle, "cuda")
    with pytest.raises(errors.EngineUnavailableError, match="CUDA provider did not start"):
        open_image(demo_bundle, "auto", cuda_graphs=True)
    opened = open_image(demo_bundle, "auto")
    assert "CUDA provider did not start" in caplog.text
    assert "image.onnx runs on the CPU" in caplog.text
    assert isinstance(opened, OnnxRuntimeTower)
    assert opened.description.endswith("CPUExecutionProvider")
    assert not pretended.handles


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")
@pytest.mark.usefixtures("pretended")
def test_libraries_are_looked_for_beside_torch_and_not_on_standard_output(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ONNX Runtime prints which library it did not find, and torch may be a build for the CPU."""
    monkeypatch.setitem(sys.modules, "torch", ModuleType("torch"))
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: print("Failed to load libcudnn.so.9"), raising=False)
    open_image(demo_bundle, "auto").close()
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Failed to load libcudnn.so.9" in printed.err


@pytest.mark.usefixtures("pretended")
def test_weights_beyond_the_limit_are_an_error_with_a_remedy(
    demo_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the words of ONNX Runtime's arena, which only the CUDA provider gives its weights to."""
    full = "Exception during initialization: bfc_arena.cc:359 Available memory of 1024 is smaller than requested bytes of 4096"

    def refuse(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError(full)

    monkeypatch.setattr(onnxruntime, "InferenceSession", refuse)
    with pytest.raises(errors.EngineError, match=r"cannot load .*requested bytes of 4096; raise cuda_memory_limit, "):
        open_image(demo_bundle, "cuda", cuda_memory_limit=1024)
    with pytest.raises(errors.EngineError, match=r"cannot load .*requested bytes of 4096$"):
        open_image(demo_bundle, "cpu")
    full = "Load model failed: Protobuf parsing failed."
    with pytest.raises(errors.EngineError, match=r"parsing failed\.$"):
        open_image(demo_bundle, "cuda")


@pytest.fixture
def started(pretended: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> FakeDriver:
    """Sessions that say that CUDA started, though all their nodes are on the CPU."""

    class Started(NotedSession):
        def get_providers(self) -> list[str]:
            return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    make = run_onnxruntime._session
    monkeypatch.setattr(
        run_onnxruntime,
        "_session",
        lambda ort, path, options, providers: Started(make(ort, path, options, ["CPUExecutionProvider"]), []),
    )
    return pretended


def test_nodes_on_the_cpu_are_refused_unless_they_are_allowed(demo_bundle: Path, started: FakeDriver) -> None:
    if not hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info"):
        pytest.skip("this ONNX Runtime does not tell which nodes it runs where")
    with pytest.raises(
        errors.EngineUnavailableError, match=r"no CUDA kernel for \d+ nodes of image.onnx \(.* and \d+ more\)"
    ):
        open_image(demo_bundle, "cuda")
    assert not started.handles
    opened = open_image(demo_bundle, "cuda", cpu_nodes="allow")
    assert isinstance(opened, OnnxRuntimeCudaTower)
    assert len(started.handles) == 1
    pixels = pixels_of(demo_bundle, 2)
    np.testing.assert_allclose(opened.run(pixels), open_image(demo_bundle, "cpu").run(pixels), atol=2e-6)
    opened.close()
    assert not started.handles


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        ((), ("cuda-bindings", "cuda-core")),
        (("cuda.core.utils",), ("cuda-bindings",)),
        (("cuda.bindings.driver",), ("cuda-core",)),
    ],
)
def test_without_the_driver_s_bindings_rows_on_the_host_still_run(
    demo_bundle: Path,
    started: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    there: tuple[str, ...],
    missing: tuple[str, ...],
) -> None:
    for module in {"cuda.bindings.driver", "cuda.core.utils"} - {*there}:
        monkeypatch.setitem(sys.modules, module, None)  # Python's own way to say that it cannot be found
    for module in there:
        monkeypatch.setitem(sys.modules, module, ModuleType(module))
    opened = open_image(demo_bundle, "cuda", cpu_nodes="allow")
    assert isinstance(opened, OnnxRuntimeTower)
    assert not opened.takes_device_arrays
    problems = "; ".join(f"{name} is not installed: pip install 'openclip-engines[gpu]'" for name in missing)
    needed = f"cuda-bindings and cuda-core ({problems})"
    assert f"arrays on the GPU go through the host: to be read there they need {needed}" in caplog.text
    pixels = pixels_of(demo_bundle, 2)
    np.testing.assert_allclose(opened.run(pixels), open_image(demo_bundle, "cpu").run(pixels), atol=2e-6)
    with pytest.raises(errors.EngineUnavailableError, match=re.escape(f"cuda_graphs needs {needed}")):
        open_image(demo_bundle, "cuda", cuda_graphs=[1])
    assert not started.handles


def test_an_error_of_the_provider_does_not_move_the_tower_to_the_cpu(
    demo_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_image(demo_bundle, "cpu")

    native = opened._bound._session._sess

    class Native:
        def run(self, *arguments: Any) -> Any:
            raise onnxruntime.capi.onnxruntime_pybind11_state.EPFail("CUDA failure 700: an illegal memory access")

        def __getattr__(self, name: str) -> Any:
            return getattr(native, name)

    opened._bound._session._sess = Native()
    with pytest.raises(errors.EngineError, match="CUDA failure 700"):
        opened.run(pixels_of(demo_bundle, 1))
    assert "Falling back" not in capsys.readouterr().out


def test_options_are_checked(demo_bundle: Path) -> None:
    with pytest.raises(errors.InputError, match="cpu_nodes is 'ignore': pass 'error' or 'allow'"):
        open_image(demo_bundle, "cpu", cpu_nodes="ignore")
    with pytest.raises(errors.InputError, match="cuda_graphs needs a GPU"):
        open_image(demo_bundle, "cpu", cuda_graphs=True)
    for option, least, wrong in (
        ("cuda_memory_limit", 1, (0, -5, "4GiB", 16e9, None, True)),
        ("device_id", 0, (-3, 0.0, "0", None, False)),
    ):
        for value in wrong:
            with pytest.raises(
                errors.InputError, match=rf"{option} is {value!r}: pass a whole number.*, {least} or more"
            ):
                open_image(demo_bundle, "cpu", **{option: value})
    open_image(demo_bundle, "cpu", cuda_memory_limit=np.int64(1 << 33), device_id=np.int32(0), cuda_graphs=None).close()
    with pytest.raises(errors.InputError, match="cuda_graphs has the batch size 0"):
        open_image(demo_bundle, "cpu", cuda_graphs=[0])


def test_the_arena_is_bounded_and_works_in_the_towers_stream() -> None:
    options = cuda_options(1, 5 << 30, 77, True)
    assert options["gpu_mem_limit"] == str(5 << 30)
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["use_tf32"] == "0"
    assert (options["device_id"], options["user_compute_stream"], options["enable_cuda_graph"]) == ("1", "77", "1")
    assert not {"user_compute_stream", "enable_cuda_graph"} & set(cuda_options(0, 1))
