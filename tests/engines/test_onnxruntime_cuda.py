"""ONNX Runtime's tower on a GPU: real sessions on the CPU provider, and a pretended driver whose device memory is host memory.

What needs CUDA itself, its streams and its graphs, is in `test_onnxruntime_gpu.py`.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest
from fake_cuda import FakeDriver

from engines import errors, onnxruntime_cuda, run_onnxruntime
from engines.cuda import Cuda
from engines.manifest import TextLength, read_manifest
from engines.onnxruntime_binding import BoundSession, Place
from engines.onnxruntime_cuda import OnnxRuntimeCudaTower
from engines.onnxruntime_graphs import (
    DEFAULT_BATCHES,
    WITHOUT_GRAPH,
    CapturedShapes,
    GraphShape,
    fitting,
    graph_batches,
    graph_shapes,
)
from engines.onnxruntime_options import cuda_options
from engines.run_onnxruntime import OnnxRuntimeTower, open_tower


class LoggingDriver(FakeDriver):
    """Notes events and waits in the order in which they come."""

    def cuEventRecord(self, event: int, stream: int) -> Any:
        self.log.append(f"record {stream}")
        return super().cuEventRecord(event, stream)

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> Any:
        self.log.append(f"wait {stream}")
        return super().cuStreamWaitEvent(stream, event, flags)

    def cuMemcpyAsync(self, target: int, source: int, size: int, stream: int) -> Any:
        self.log.append(f"copy {stream}")
        return super().cuMemcpyAsync(target, source, size, stream)


class NotedSession:
    """A real session that notes its bound runs, their graph ids and the threads they came from."""

    def __init__(self, session: Any, log: list[str]) -> None:
        self._session, self._log = session, log
        self.graph_ids: list[str] = []
        self.threads: set[int] = set()
        self.before: Callable[[], None] = lambda: None

    def run(self, *arguments: Any) -> Any:
        self.threads.add(threading.get_ident())
        self.before()
        return self._session.run(*arguments)

    def run_with_iobinding(self, binding: Any, options: Any) -> None:
        self.threads.add(threading.get_ident())
        try:
            self.graph_ids.append(options.get_run_config_entry("gpu_graph_id"))
        except RuntimeError:
            self.graph_ids.append("")
        self.before()
        self._log.append("run")
        self._session.run_with_iobinding(binding, options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)


class Opened:
    """A tower on the pretended device, and what is under it."""

    def __init__(self, bundle: Path, name: Any, shapes: tuple[GraphShape, ...] = (), capacity: int = 1 << 30) -> None:
        manifest = read_manifest(bundle)
        tower = manifest.towers[name]
        engine = next(e for e in manifest.engines if e.tower == name and e.kind == "onnxruntime")
        self.driver = LoggingDriver(capacity)
        session = onnxruntime.InferenceSession(str(bundle / tower.graph), providers=["CPUExecutionProvider"])
        self.session = NotedSession(session, self.driver.log)
        common = (WITHOUT_GRAPH,) if shapes else ()
        self.bound = BoundSession(onnxruntime, self.session, tower, Place("cpu"), "onnxruntime", common)
        self.cuda = Cuda(0, self.driver)
        self.stream = self.cuda.create_stream()
        self.tower = OnnxRuntimeCudaTower(self.cuda, self.bound, self.stream, engine, shapes)
        self.plain = open_tower(bundle, engine, tower, manifest.precision, "cpu")

    def view(self, rows: np.ndarray) -> Any:
        return SimpleNamespace(ptr=rows.ctypes.data, shape=rows.shape, dtype=rows.dtype, device_id=0)

    def host(self, embeds: Any) -> np.ndarray:
        found = np.empty(embeds.shape, dtype=np.float32)
        self.cuda.copy(found.ctypes.data, embeds.address, found.nbytes, self.stream)
        return found


@pytest.fixture(autouse=True)
def _views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The view of an array is the array's own, as DLPack's reader would need a real device."""
    monkeypatch.setattr(onnxruntime_cuda, "device_view", lambda value, stream: value)


def pixels_of(bundle: Path, rows: int) -> np.ndarray:
    size = read_manifest(bundle).preprocess.size
    return np.random.default_rng(0).integers(0, 256, (rows, *size, 3), dtype=np.uint8)


def ids_of(rows: int, tokens: int) -> np.ndarray:
    ids = np.random.default_rng(rows).integers(1, 400, (rows, tokens)).astype(np.int32)
    ids[:, -1] = 511
    return ids


def test_rows_on_the_device_are_embedded_where_they_lie(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image")
    pixels = pixels_of(demo_bundle, 300)
    expected = opened.plain.run(pixels)
    caller = opened.cuda.create_stream()
    for stream, rows in ((caller, 5), (None, 3), (caller, 300)):
        opened.driver.log.clear()
        embeds = opened.tower.run_on_device(opened.view(pixels[:rows]), stream)
        log = list(opened.driver.log)
        assert embeds.shape == (rows, expected.shape[1])
        np.testing.assert_allclose(opened.host(embeds), expected[:rows], atol=2e-6)
        runs = ["run"] * (2 if rows > 256 else 1)
        if stream is None:
            assert log == runs
        else:  # the tower's stream after the caller's, the caller's after the tower's, and no copy
            own = opened.stream
            assert log == [f"record {caller}", f"wait {own}", *runs, f"record {own}", f"wait {caller}"]
        embeds.close()
    opened.cuda.destroy_stream(caller)
    opened.tower.close()
    assert not opened.driver.blocks
    assert not opened.driver.handles


def test_addresses_that_do_not_suit_the_kernels_get_memory_that_does(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "text")
    room = opened.cuda.allocate(4096)
    ids = ids_of(6, 9)
    opened.cuda.copy(room, ids.ctypes.data, ids.nbytes, opened.stream)
    view = SimpleNamespace(ptr=room + 36, shape=(5, 9), dtype=ids.dtype, device_id=0)  # the second row and on
    seen: list[int] = []
    bind = opened.bound.bind

    def noted(shape: tuple[int, ...], source: int, target: int) -> Any:
        seen.extend((source, target))
        return bind(shape, source, target)

    opened.bound.bind = noted  # type: ignore[method-assign]
    embeds = opened.tower.run_on_device(view, None)
    np.testing.assert_allclose(opened.host(embeds), opened.plain.run(ids[1:]), atol=2e-6)
    assert seen
    assert not any(address % 16 for address in seen)
    embeds.close()
    opened.cuda.free(room)
    opened.tower.close()
    assert not opened.driver.blocks


def test_wrong_arrays_are_refused_and_leave_nothing(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image")
    pixels = pixels_of(demo_bundle, 2)
    other = opened.view(pixels)
    other.device_id = 1
    for view, words in (
        (opened.view(pixels.astype(np.float32)), "must be uint8"),
        (opened.view(pixels[:, :8]), "an array on the GPU must be"),
        (opened.view(pixels[:0]), "no row"),
        (other, "the array is on GPU 1, the engine on GPU 0"),
    ):
        with pytest.raises(errors.InputError, match=words):
            opened.tower.run_on_device(view, None)
    assert not opened.driver.blocks


def test_an_error_in_a_run_still_orders_the_callers_stream_after_it(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image")
    caller = opened.cuda.create_stream()

    def fail() -> None:
        raise RuntimeError("the kernel failed")

    opened.session.before = fail
    opened.driver.log.clear()
    with pytest.raises(errors.EngineError, match=r"onnxruntime failed on uint8 \(2, .*the kernel failed"):
        opened.tower.run_on_device(opened.view(pixels_of(demo_bundle, 2)), caller)
    assert opened.driver.log[-2:] == [f"record {opened.stream}", f"wait {caller}"]
    assert not opened.driver.blocks


def test_no_room_for_the_embeddings_is_one_sentence(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image", capacity=100)
    with pytest.raises(errors.EngineError, match="onnxruntime has no memory: out of device memory: 512 bytes needed"):
        opened.tower.run_on_device(opened.view(pixels_of(demo_bundle, 2)), None)


def test_full_memory_halves_the_batch_on_the_device(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image")
    pixels = pixels_of(demo_bundle, 24)
    expected = opened.plain.run(pixels)
    refused = iter(
        [RuntimeError("Available memory of 10 is smaller than requested bytes of 20")] * 2
        + [None] * 2
        + [RuntimeError("CUDA failure 2: out of memory ; GPU=0")]
    )

    def maybe() -> None:
        error = next(refused, None)
        if error is not None:
            raise error

    opened.session.before = maybe  # the whole batch, the shrinking run, …
    embeds = opened.tower.run_on_device(opened.view(pixels), None)
    np.testing.assert_allclose(opened.host(embeds), expected, atol=2e-6)


def test_runs_of_several_threads_take_turns(demo_bundle: Path) -> None:
    """ONNX Runtime has one cuDNN handle for all runs in a stream that is given to it."""
    opened = Opened(demo_bundle, "image")
    pixels = pixels_of(demo_bundle, 4)
    lock, inside, most = threading.Lock(), [0], [0]
    run, run_bound = opened.session.run, opened.session.run_with_iobinding

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*arguments: Any) -> Any:
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.005)  # the others get here, if they can
            try:
                return call(*arguments)
            finally:
                with lock:
                    inside[0] -= 1

        return noted

    opened.session.run = counted(run)  # type: ignore[method-assign]
    opened.session.run_with_iobinding = counted(run_bound)  # type: ignore[method-assign]

    def work() -> None:
        for _ in range(3):
            opened.tower.run(pixels)
            opened.tower.run_on_device(opened.view(pixels), None).close()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1]
    opened.tower.close()
    assert not opened.driver.blocks


def test_threads_share_a_tower_and_closing_waits_for_them(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image")
    pixels = pixels_of(demo_bundle, 40)
    expected = opened.plain.run(pixels)
    problems: list[BaseException] = []
    began, go_on = threading.Event(), threading.Event()

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(6):
                start, rows = int(rng.integers(0, 20)), int(rng.integers(1, 20))
                part = pixels[start : start + rows]
                np.testing.assert_allclose(opened.tower.run(part), expected[start : start + rows], atol=2e-6)
                embeds = opened.tower.run_on_device(opened.view(part), None)
                np.testing.assert_allclose(opened.host(embeds), expected[start : start + rows], atol=2e-6)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems

    def slow() -> None:
        began.set()
        go_on.wait(10)

    opened.session.before = slow
    last = threading.Thread(
        target=lambda: problems.append(AssertionError()) if opened.tower.run(pixels[:1]) is None else None
    )
    last.start()
    began.wait(10)
    closing = threading.Thread(target=opened.tower.close)
    closing.start()
    closing.join(0.1)
    assert closing.is_alive(), "closed under a run"
    assert opened.stream in opened.driver.handles
    go_on.set()
    last.join()
    closing.join()
    assert not problems
    assert opened.stream not in opened.driver.handles
    for call in (lambda: opened.tower.run(pixels[:1]), lambda: opened.tower.run_on_device(opened.view(pixels), None)):
        with pytest.raises(errors.EngineError, match="the engine was closed"):
            call()
    opened.tower.close()


# CUDA graphs


def test_batch_sizes_to_capture() -> None:
    assert graph_batches(False) == ()
    assert graph_batches(True) == DEFAULT_BATCHES
    assert graph_batches([8, 2, 8]) == (2, 8)
    assert graph_batches(None) == ()
    assert graph_batches(8) == (8,)
    assert graph_batches(np.False_) == ()  # type: ignore[arg-type]
    for whole in (graph_batches(np.array([8, 1])), graph_batches({np.int64(1), 8}), graph_batches(iter([1, 8]))):
        assert whole == (1, 8)
        assert {type(size) for size in whole} == {int}
    for wrong in ([0], 0, [1, 5000], [1.5], 1.5, [True], [1, "a"], "8", [None], np.array(1.5), object()):
        with pytest.raises(errors.InputError, match=r"cuda_graphs has the batch size .*: pass whole numbers from 1 to"):
            graph_batches(wrong)  # type: ignore[arg-type]


def test_shapes_to_capture_are_bounded() -> None:
    length = TextLength(keep="end", extra=0, min=2, max=77)
    assert graph_shapes((1, 4), None) == (GraphShape(1), GraphShape(4))
    assert [shape.tokens for shape in graph_shapes((2,), length)] == [16, 32, 77]
    assert [s.tokens for s in graph_shapes((2,), TextLength(keep="fixed", extra=0, min=77, max=77))] == [77]
    assert [s.tokens for s in graph_shapes((2,), TextLength(keep="end", extra=0, min=20, max=32))] == [32]
    with pytest.raises(errors.InputError, match="30 batch sizes, of 3 lengths each: pass at most 21"):
        graph_shapes(range(1, 31), length)


def test_the_smallest_shape_that_holds_a_batch() -> None:
    images, texts = graph_shapes((1, 4), None), graph_shapes((1, 4), TextLength(keep="end", extra=0, min=2, max=77))
    assert fitting(images, 1, None, False) == GraphShape(1)
    assert fitting(images, 2, None, True) == GraphShape(4)
    assert fitting(images, 5, None, False) is None
    assert fitting(texts, 3, 17, False) == GraphShape(4, 32)
    assert fitting(texts, 1, 16, True) == GraphShape(1, 16)
    assert fitting(texts, 1, 17, True) is None
    assert fitting(texts, 1, 78, False) is None


@pytest.mark.parametrize("name", ["image", "text"])
def test_replays_give_the_same_embeddings(demo_bundle: Path, name: str) -> None:
    length = read_manifest(demo_bundle).towers[name].length  # type: ignore[index]
    shapes = graph_shapes((2, 4), length)
    opened = Opened(demo_bundle, name, shapes)
    captured = set(opened.session.graph_ids)
    assert captured == {str(i + 1) for i in range(len(shapes))}
    for rows, tokens in ((1, 9), (2, 16), (3, 4), (4, 16), (1, 3), (5, 7), (2, 9)):
        inputs = pixels_of(demo_bundle, rows) if name == "image" else ids_of(rows, tokens)
        expected = opened.plain.run(inputs)
        np.testing.assert_allclose(opened.tower.run(inputs), expected, atol=2e-6)
        if rows <= 4:
            assert opened.session.graph_ids[-1] in captured
        opened.session.graph_ids.clear()
        embeds = opened.tower.run_on_device(opened.view(inputs), None)
        np.testing.assert_allclose(opened.host(embeds), expected, atol=2e-6)
        exact = name == "image" or tokens in {shape.tokens for shape in shapes}
        assert opened.session.graph_ids[-1] in (captured if exact and rows <= 4 else {"-1"})
        embeds.close()
    opened.tower.close()
    assert not opened.driver.blocks
    assert not opened.driver.pinned
    assert not opened.driver.handles


def test_all_runs_of_a_tower_with_graphs_come_from_one_thread(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image", graph_shapes((2,), None))
    pixels = pixels_of(demo_bundle, 8)
    expected = opened.plain.run(pixels)
    problems: list[BaseException] = []

    def work() -> None:
        try:
            for rows in (1, 2, 7):  # two replays, and one that no graph holds
                np.testing.assert_allclose(opened.tower.run(pixels[:rows]), expected[:rows], atol=2e-6)
                embeds = opened.tower.run_on_device(opened.view(pixels[:rows]), None)
                np.testing.assert_allclose(opened.host(embeds), expected[:rows], atol=2e-6)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert len(opened.session.threads) == 1
    assert threading.get_ident() not in opened.session.threads


def test_the_memory_of_graphs_is_never_given_back(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image", graph_shapes((1,), None))
    shrunk: list[int] = []
    opened.bound.shrink = lambda: shrunk.append(1)  # type: ignore[method-assign]
    pixels = pixels_of(demo_bundle, 4)
    refused = iter([RuntimeError("Available memory of 10 is smaller than requested bytes of 20")])

    def maybe() -> None:
        error = next(refused, None)
        if error is not None:
            raise error

    opened.session.before = maybe
    np.testing.assert_allclose(opened.tower.run(pixels), opened.plain.run(pixels), atol=2e-6)
    assert not shrunk


def test_what_no_graph_is_for_gets_the_librarys_own_error(demo_bundle: Path) -> None:
    opened = Opened(demo_bundle, "image", graph_shapes((2,), None))
    pixels = pixels_of(demo_bundle, 2)
    for wrong in (pixels.astype(np.float32), pixels[:, :8]):
        with pytest.raises(errors.EngineError, match=f"onnxruntime failed on {wrong.dtype}"):
            opened.tower.run(wrong)
    opened.tower.close()


def test_a_shape_that_cannot_be_captured_leaves_nothing(demo_bundle: Path) -> None:
    whole = Opened(demo_bundle, "image")

    def fail() -> None:
        raise RuntimeError("CUDA failure 900: operation not permitted when stream is capturing")

    whole.session.before = fail
    with pytest.raises(
        errors.EngineError, match=r"no CUDA graph can be captured for a batch of 2 .*900.* without cuda_graphs"
    ):
        CapturedShapes(whole.cuda, whole.bound, whole.stream, graph_shapes((2,), None))
    assert not whole.driver.blocks
    assert not whole.driver.pinned
    with pytest.raises(errors.EngineError, match="no CUDA graph can be captured"):
        OnnxRuntimeCudaTower(
            whole.cuda, whole.bound, whole.stream, SimpleNamespace(batch=None), graph_shapes((2,), None)
        )  # type: ignore[arg-type]
    assert not whole.driver.handles


# Opening


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
        ((), "cuda-bindings and cuda-core are"),
        (("cuda", "cuda.core"), "cuda-bindings is"),
        (("cuda", "cuda.bindings"), "cuda-core is"),
    ],
)
def test_without_the_driver_s_bindings_rows_on_the_host_still_run(
    demo_bundle: Path,
    started: FakeDriver,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    there: tuple[str, ...],
    missing: str,
) -> None:
    monkeypatch.setattr(run_onnxruntime, "find_spec", lambda name: name if name in there else None)
    opened = open_image(demo_bundle, "cuda", cpu_nodes="allow")
    assert isinstance(opened, OnnxRuntimeTower)
    assert not hasattr(opened, "run_on_device")
    needed = f"cuda-bindings and cuda-core, and {missing} not installed"
    assert f"arrays on the GPU go through the host: to be read there they need {needed}" in caplog.text
    pixels = pixels_of(demo_bundle, 2)
    np.testing.assert_allclose(opened.run(pixels), open_image(demo_bundle, "cpu").run(pixels), atol=2e-6)
    with pytest.raises(errors.EngineUnavailableError, match=f"cuda_graphs needs {needed}"):
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
