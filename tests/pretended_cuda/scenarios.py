"""What a worker does on the pretended device. A scenario gets a bundle, writes sections into the log, and returns answers.

Towers are opened as a program that serves opens them: `engines.runtimes.onnxruntime.open_tower`, or `engines.load`. The text tower
is the one that runs. The image tower is only loaded, for cuDNN has no plan for its convolution here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import engines
from engines import errors
from engines.manifest import read_manifest
from engines.onnxruntime.cpu_nodes import cpu_nodes
from engines.onnxruntime.options import cuda_options, session_options
from engines.runtimes.onnxruntime import open_tower
from pretended_cuda.device import Device, DeviceRows

CUDA, CPU = "CUDAExecutionProvider", "CPUExecutionProvider"
LONGEST = 77  # tokens of the demo model's texts
DIM = 64  # numbers of an embedding
LIMIT = 12 << 20  # bytes of an arena that is too small for the largest batches
ROWS = (16, 64, 256)
SHAPES = [(rows, tokens) for tokens in range(2, 78, 5) for rows in ROWS]
RUNS, THREADS = 3, 4
_ARENA = 1 << 30


def nodes(device: Device, bundle: Path) -> dict[str, Any]:
    """Both towers by `engines.load`, which refuses nodes on the CPU; then where each tower's nodes are."""
    with engines.load(bundle, engine="onnxruntime", device="cuda") as clip:
        answers: dict[str, Any] = {"engines": dict(clip.engines)}
    return {**answers, **placed(device, bundle)}


def placed(device: Device, folder: Path) -> dict[str, Any]:
    """Where the nodes of the graphs in a folder are: operators on the GPU, names of nodes on the CPU."""
    answers = {}
    for path in sorted(folder.glob("*.onnx")):
        session = _session(path, cuda_options(0, _ARENA))
        groups = [group for group in session.get_provider_graph_assignment_info() if group.ep_name == CUDA]
        answers[path.stem] = {
            "cuda": sorted({node.op_type for group in groups for node in group.get_nodes()}),
            "cpu": sorted(node.name for node in cpu_nodes(session) or ()),
        }
    return answers


def no_fallback(device: Device, bundle: Path) -> dict[str, Any]:
    """ONNX Runtime's own option against nodes on the CPU."""
    try:
        _session(bundle / "image.onnx", cuda_options(0, _ARENA), {"session.disable_cpu_ep_fallback": "1"}, others=())
    except Exception as error:  # noqa: BLE001  (of a class of the library's own)
        return {"error": str(error)}
    return {"error": None}


def refused(device: Device, bundle: Path) -> dict[str, Any]:
    """A text tower with a node that has no CUDA kernel: refused, and then allowed."""
    try:
        _open(bundle).close()
        answers = {"error": None}
    except errors.EngineUnavailableError as error:
        answers = {"error": str(error)}
    left = device.left()
    tower = _open(bundle, cpu_nodes="allow")
    rows = DeviceRows(device, ids(2, LONGEST))
    with _stream(device) as stream:
        tower.run_on_device(rows, stream).close()
        device.section("allowed")
        tower.run_on_device(rows, stream).close()
        device.section("end")
    tower.close()
    return {**answers, "left": left}


def order(device: Device, bundle: Path) -> dict[str, Any]:
    """Rows on the device and on the host, the second time for each: what the first time allocates is there then."""
    tower = _open(bundle)
    rows, on_host = DeviceRows(device, ids(3, LONGEST)), ids(3, LONGEST)
    with _stream(device) as stream:
        tower.run_on_device(rows, stream).close()
        device.section("device")
        result = tower.run_on_device(rows, stream)
        device.section("between")
        found = result.address
        result.close()
        device.section("device, no stream")
        result = tower.run_on_device(rows)
        device.section("between")
        result.close()
        tower.run(on_host)
        device.section("host")
        tower.run(on_host)
        device.section("end")
    tower.close()
    return {"caller": stream, "rows": rows.address, "result": found, "host": on_host.ctypes.data}


def threads(device: Device, bundle: Path) -> dict[str, Any]:
    """Runs of several threads, on rows of the host and of the device."""
    tower = _open(bundle)
    rows = DeviceRows(device, ids(2, 9))

    def work(number: int) -> None:
        with _stream(device) as stream:
            for _ in range(RUNS):
                tower.run_on_device(rows, stream if number % 2 else None).close()
                tower.run(ids(2, 9))

    tower.run(ids(2, 9))
    device.section("threads")
    _in_threads(THREADS, work)
    device.section("end")
    tower.close()
    return {}


def graphs(device: Device, bundle: Path) -> dict[str, Any]:
    """CUDA graphs for batches of one and two: how they are captured and replayed."""
    device.section("open")
    tower = _open(bundle, cuda_graphs=[1, 2])
    device.section("between")
    rows = {count: DeviceRows(device, ids(count, LONGEST)) for count in (1, 2, 3)}
    with _stream(device) as stream:
        tower.run_on_device(rows[3], stream).close()
        device.section("replay on the device")
        for count in (1, 2):
            tower.run_on_device(rows[count], stream).close()
        device.section("replay on the host")
        tower.run(ids(2, 9))
        device.section("threads")
        _in_threads(3, lambda number: tower.run(ids(1 + number % 2, 20)))
        device.section("a larger batch")
        tower.run_on_device(rows[3], stream).close()
        device.section("end")
    tower.close()
    for block in rows.values():
        block.close()
    return {"left": device.left()}


def graphs_of_two_threads(device: Device, bundle: Path) -> dict[str, Any]:
    """One graph id of a plain session, run by one thread and then by another, while the first is still there."""
    with _stream(device) as stream:
        session = _session(bundle / "text.onnx", cuda_options(0, _ARENA, stream, graphs=True))
        run = _bound_run(device, session, {"gpu_graph_id": "1"})

        def work(number: int) -> None:
            device.section(f"thread {number}")
            for _ in range(RUNS):
                run()

        _in_turn(2, work)
        device.section("end")
    return {}


def handles(device: Device, bundle: Path) -> dict[str, Any]:
    """A plain session in a stream that it was given, and one in its own streams: two threads run each in turn, and at once."""
    with _stream(device) as stream:
        for name, given in (("given", stream), ("own", None)):
            session = _session(bundle / "text.onnx", cuda_options(0, _ARENA, given))
            run = _bound_run(device, session, {})

            def work(_: int, run: Callable[[], None] = run) -> None:
                for _ in range(RUNS):
                    run()

            device.section(f"{name}, in turn")
            _in_turn(2, work)
            device.section(f"{name}, at once")
            with device.meeting(2):
                _in_threads(2, work)
            device.section("between")
    return {"given": stream}


def shrinking(device: Device, bundle: Path) -> dict[str, Any]:
    """A plain session whose arena keeps its memory, and one whose arena is shrunk after every run."""
    for name, entries in (("kept", {}), ("shrunk", {"memory.enable_memory_arena_shrinkage": "gpu:0"})):
        session = _session(bundle / "text.onnx", cuda_options(0, _ARENA))
        run = _bound_run(device, session, entries)
        run()
        device.section(name)
        run()
        device.section("between")
    return {}


def memory(device: Device, bundle: Path) -> dict[str, Any]:
    """Many shapes within an arena that is too small for the largest ones, and an arena that is too small for one row."""
    before = device.left()
    tower = _open(bundle, cuda_memory_limit=LIMIT)
    opened = device.used
    device.section("limited")
    for _ in range(2):
        for rows, tokens in SHAPES:
            assert tower.run(ids(rows, tokens)).shape == (rows, DIM)
    device.section("end")
    tower.close()
    answers = {"opened": opened, "most": device.most_used, "left": device.left(), "before": before}
    tower = _open(bundle, cuda_memory_limit=opened + 4096)
    try:
        tower.run(ids(1, LONGEST))
        answers["error"] = None
    except errors.EngineError as error:
        answers["error"] = str(error)
    tower.close()
    return answers


def ids(rows: int, tokens: int) -> np.ndarray:
    """(rows, tokens) int32 ids of texts."""
    return np.full((rows, tokens), 5, dtype=np.int32)


def _open(bundle: Path, **options: Any) -> Any:
    manifest = read_manifest(bundle)
    engine = next(engine for engine in manifest.engines if engine.tower == "text")
    return open_tower(bundle, engine, manifest.towers["text"], manifest.precision, "cuda", **options)


def _session(
    path: Path,
    provider: dict[str, str],
    entries: dict[str, str] | None = None,
    others: tuple[str, ...] = (CPU,),
) -> Any:
    """A plain session of a graph in float16, with the options that this project gives it, and more entries."""
    import onnxruntime

    options = session_options(onnxruntime, "fp16", None, on_gpu=True)
    for name, value in (entries or {}).items():
        options.add_session_config_entry(name, value)
    return onnxruntime.InferenceSession(str(path), options, providers=[(CUDA, provider), *others], enable_fallback=0)


def _bound_run(device: Device, session: Any, entries: dict[str, str]) -> Callable[[], None]:
    """A run of the text tower on rows that stay where they are."""
    import onnxruntime

    rows, found = DeviceRows(device, ids(2, 9)), DeviceRows(device, np.zeros((2, DIM), np.float32))
    binding, options = session.io_binding(), onnxruntime.RunOptions()
    binding.bind_input(session.get_inputs()[0].name, "cuda", 0, np.int32, list(rows.shape), rows.address)
    binding.bind_output(session.get_outputs()[0].name, "cuda", 0, np.float32, list(found.shape), found.address)
    for name, value in entries.items():
        options.add_run_config_entry(name, value)
    return lambda: session.run_with_iobinding(binding, options)


@contextmanager
def _stream(device: Device) -> Iterator[int]:
    with device.cuda.current():
        stream = device.cuda.create_stream()
    yield stream
    with device.cuda.current():
        device.cuda.destroy_stream(stream)


def _in_threads(count: int, work: Callable[[int], Any]) -> None:
    """Threads that are all alive until the last one is done, so that none has another one's number."""
    problems: list[BaseException] = []
    barrier = threading.Barrier(count)

    def inside(number: int) -> None:
        try:
            barrier.wait()
            work(number)
            barrier.wait()
        except BaseException as error:  # noqa: BLE001
            problems.append(error)
            barrier.abort()

    started = [threading.Thread(target=inside, args=(number,)) for number in range(count)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    if problems:
        raise problems[0]


def _in_turn(count: int, work: Callable[[int], Any]) -> None:
    """The same, but each thread works when the one before it has worked."""
    done = [threading.Event() for _ in range(count)]

    def inside(number: int) -> None:
        if number:
            done[number - 1].wait()
        try:
            work(number)
        finally:
            done[number].set()

    _in_threads(count, inside)
