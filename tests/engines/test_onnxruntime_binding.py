"""Runs of real ONNX Runtime sessions on memory that is bound to them, and on an arena that is full."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from engines.errors import EngineError
from engines.manifest import read_manifest
from engines.onnxruntime.binding import ArenaFullError, BoundSession, Place, run_in_parts
from engines.onnxruntime.exclusive_runs import Gate

ARENA = 4 << 20  # bytes; weights are mapped from their file and take none of it


def bound_session(bundle: Path, name: str, *, limited: bool = False) -> BoundSession:
    tower = read_manifest(bundle).towers[name]  # type: ignore[index]
    options = onnxruntime.SessionOptions()
    options.enable_mem_pattern = False
    options.log_severity_level = 4
    if limited:
        options.add_session_config_entry("session.use_env_allocators", "1")
    session = onnxruntime.InferenceSession(str(bundle / tower.graph), options, providers=["CPUExecutionProvider"])
    return BoundSession(onnxruntime, session, tower, Place("cpu"), "onnxruntime on the CPU")


def some_ids(rows: int, tokens: int) -> np.ndarray:
    ids = np.random.default_rng(rows).integers(1, 400, (rows, tokens)).astype(np.int32)
    ids[:, -1] = 511
    return ids


def some_pixels(bundle: Path, rows: int) -> np.ndarray:
    size = read_manifest(bundle).preprocess.size
    return np.random.default_rng(rows).integers(0, 256, (rows, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("name", ["image", "text"])
def test_bound_runs_read_and_write_where_the_data_lies(demo_bundle: Path, name: str) -> None:
    bound = bound_session(demo_bundle, name)
    inputs = some_pixels(demo_bundle, 7) if name == "image" else some_ids(7, 9)
    expected = bound.run(inputs)
    assert expected.shape == (7, bound.dim)
    found = np.full((9, bound.dim), -1, dtype=np.float32)
    part = inputs[2:6]
    binding = bound.bind(part.shape, part.ctypes.data, found[1:].ctypes.data)
    bound.run_bound(binding, part.shape)
    np.testing.assert_allclose(found[1:5], expected[2:6], atol=2e-6)
    assert (found[[0, 5, 6, 7, 8]] == -1).all()
    inputs[2:6] = inputs[3:7].copy()  # the binding names the memory, not what was in it
    bound.run_bound(binding, part.shape)
    np.testing.assert_allclose(found[1:4], expected[3:6], atol=2e-6)


def test_options_of_one_run_take_the_common_ones_place(demo_bundle: Path) -> None:
    tower = read_manifest(demo_bundle).towers["image"]
    common = (("gpu_graph_id", "-1"), ("a", "1"))
    bound = BoundSession(onnxruntime, None, tower, Place("cuda", 1), "d", common)
    options = bound.options(("gpu_graph_id", "4"), ("b", "2"))
    assert [options.get_run_config_entry(name) for name in ("gpu_graph_id", "a", "b")] == ["4", "1", "2"]
    assert Place("cuda", 1).arena == "gpu:1"
    assert Place("cpu").arena == "cpu:0"


def test_errors_name_what_ran_and_the_shape(demo_bundle: Path) -> None:
    bound = bound_session(demo_bundle, "image")
    with pytest.raises(EngineError, match=r"onnxruntime on the CPU failed on uint8 \(2, 3\): ") as raised:
        bound.run(np.zeros((2, 3), np.uint8))
    assert not isinstance(raised.value, ArenaFullError)
    bound.close()
    bound.close()
    with pytest.raises(EngineError, match="closed"):
        bound.run(some_pixels(demo_bundle, 1))
    with pytest.raises(EngineError, match="closed"):
        bound.bind((1, 2), 0, 0)


@pytest.fixture(scope="module")
def _limited_arena() -> None:
    """ONNX Runtime's arena for the CPU with a limit, for sessions of this process that ask for it."""
    place = onnxruntime.OrtMemoryInfo(
        "Cpu", onnxruntime.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, onnxruntime.OrtMemType.DEFAULT
    )
    settings = {
        "max_mem": ARENA,
        "arena_extend_strategy": 1,
        "initial_chunk_size_bytes": -1,
        "max_dead_bytes_per_chunk": -1,
    }
    onnxruntime.create_and_register_allocator(place, onnxruntime.OrtArenaCfg(settings))


@pytest.mark.usefixtures("_limited_arena")
def test_a_full_arena_is_emptied_once_and_the_run_repeated(demo_bundle: Path) -> None:
    bound, free = bound_session(demo_bundle, "text", limited=True), bound_session(demo_bundle, "text")
    full: list[tuple[int, int]] = []
    for tokens in range(2, 17):  # pieces of ever other sizes, until no room is left for a new one
        for rows in (10, 20, 40):
            try:
                bound.run(some_ids(rows, tokens))
            except ArenaFullError as error:
                assert f"has no memory for int32 ({rows}, {tokens})" in str(error)  # noqa: PT017
                full.append((rows, tokens))
    assert full
    rows, tokens = full[0]
    for _ in range(2):
        with pytest.raises(ArenaFullError):
            bound.run(some_ids(rows, tokens))  # waiting does not help
    found = bound.run_in_parts(some_ids(rows, tokens), bound.room)
    np.testing.assert_allclose(found, free.run(some_ids(rows, tokens)), atol=2e-6)
    bound.run(some_ids(rows, tokens))  # and stays possible


@pytest.mark.usefixtures("_limited_arena")
def test_what_does_not_fit_is_computed_in_parts(demo_bundle: Path) -> None:
    bound, free = bound_session(demo_bundle, "text", limited=True), bound_session(demo_bundle, "text")
    ids = some_ids(200, 16)
    with pytest.raises(ArenaFullError):
        bound.run(ids)
    for room in (bound.room, None):
        np.testing.assert_allclose(bound.run_in_parts(ids, room), free.run(ids), atol=2e-6)


def test_parts_are_halved_down_to_one_row() -> None:
    done: list[tuple[int, int]] = []
    made: list[int] = []

    @contextmanager
    def room() -> Iterator[None]:
        made.append(len(done))
        yield

    def run(start: int, count: int) -> None:
        if count > 5:
            raise ArenaFullError(f"no memory for {count}")
        done.append((start, count))

    run_in_parts(27, 16, run, room)
    assert [start for start, _ in done] == sorted(start for start, _ in done)
    assert sum(count for _, count in done) == 27
    assert made == [0, 0, 2, 4, 5]  # once for each part that found no memory: 16, 8, 8, 11, 6 rows
    assert done == [(0, 4), (4, 4), (8, 4), (12, 4), (16, 5), (21, 3), (24, 3)]
    run_in_parts(0, 1, run, None)

    def never(start: int, count: int) -> None:
        raise ArenaFullError(f"no memory for {count}")

    with pytest.raises(EngineError, match="no memory for 1; raise cuda_memory_limit, "):
        run_in_parts(4, 4, never, None)

    def broken(start: int, count: int) -> None:
        raise EngineError("broken")

    with pytest.raises(EngineError, match=r"^broken$"):
        run_in_parts(4, 4, broken, room)


@pytest.mark.usefixtures("_limited_arena")
def test_threads_that_fill_the_arena_together_wait_for_each_other(demo_bundle: Path) -> None:
    bound, free = bound_session(demo_bundle, "text", limited=True), bound_session(demo_bundle, "text")
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(15):
                ids = some_ids(int(rng.integers(1, 40)), int(rng.integers(2, 17)))
                np.testing.assert_allclose(bound.run_in_parts(ids, bound.room), free.run(ids), atol=2e-6)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems


def test_alone_means_alone() -> None:
    gate, lock, inside, seen = Gate(), threading.Lock(), [0], []

    def together() -> None:
        for _ in range(200):
            with gate.together():
                with lock:
                    inside[0] += 1
                time.sleep(0.0002)  # others get their turn
                with lock:
                    inside[0] -= 1

    def alone() -> None:
        for _ in range(20):
            with gate.alone():
                before = inside[0]
                with gate.together():
                    seen.append((before, inside[0]))

    threads = [threading.Thread(target=work) for work in (together, together, together, alone, alone)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert seen == [(0, 0)] * 40
    with pytest.raises(KeyError), gate.alone():  # an error opens it again
        raise KeyError
    with gate.together():
        pass


@pytest.mark.parametrize("wait_for", ["alone", "together"])
def test_an_interrupt_of_the_wait_leaves_the_gate_open(wait_for: str) -> None:
    """Ctrl-C while a thread waits until it is alone: for those that are inside, or for another one that is alone."""
    gate, entered, leave = Gate(), threading.Event(), threading.Event()

    def hold() -> None:
        with getattr(gate, wait_for)():
            entered.set()
            leave.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert entered.wait(30)
    caller = threading.get_ident()

    def interrupt_the_wait() -> None:
        while not gate._changed._waiters:  # type: ignore[attr-defined]  # a fixed time is too short on a busy machine
            time.sleep(0.01)
        signal.pthread_kill(caller, signal.SIGINT)

    interrupt = threading.Thread(target=interrupt_the_wait)
    interrupt.start()
    with pytest.raises(KeyboardInterrupt), gate.alone():
        pass
    interrupt.join()
    assert gate._alone == (holder.ident if wait_for == "alone" else None)
    leave.set()
    holder.join(30)

    def enter() -> None:
        with gate.together():
            pass
        with gate.alone():
            pass

    for _ in range(2):
        thread = threading.Thread(target=enter, daemon=True)
        thread.start()
        thread.join(10)
        assert not thread.is_alive(), "locked for ever"
