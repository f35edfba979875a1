"""ONNX Runtime's tower on a GPU, its rows, memory and threads: real sessions on the CPU provider, on a pretended driver.

What needs CUDA itself, its streams and its graphs, is in `test_onnxruntime_gpu.py`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnxruntime_on_cuda import Opened, ids_of, pixels_of

from engines import errors
from engines.onnxruntime import cuda_session as onnxruntime_cuda


@pytest.fixture(autouse=True)
def _views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The view of an array is the array's own, as DLPack's reader would need a real device."""
    monkeypatch.setattr(onnxruntime_cuda, "device_view", lambda value, stream: value)


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
