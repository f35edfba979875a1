"""The TensorRT runtime's own logic, on a driver and a library that keep the calls' rules but compute on the CPU.

That the calls are right on a GPU is for the tests marked ``gpu``.
"""

from __future__ import annotations

import threading
from collections import deque
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from fake_cuda import FakeDriver, FakeTensorRT

from engines import Embedder, errors
from engines.device.cuda import Cuda, CudaError
from engines.manifest import Engine, Manifest, Profile, Range, Target, Tower, read_manifest
from engines.runtimes.batches import run_in_batches
from engines.runtimes.onnxruntime import open_tower as open_onnxruntime
from engines.tensorrt import tower as tensorrt_tower
from engines.tensorrt.shapes import Run, TowerShape
from engines.tensorrt.slot import GraphLimits, Slot
from engines.tensorrt.tower import TensorRTTower

LATENCY = Range(min=1, opt=4, max=8)
THROUGHPUT = Range(min=16, opt=32, max=64)


def make_tower(
    bundle: Path,
    name: Any = "image",
    *,
    batches: tuple[Range, ...] = (LATENCY, THROUGHPUT),
    capacity: int = 1 << 30,
    parallel: int = 2,
    graphs: GraphLimits | None = GraphLimits(),  # noqa: B008
    capturable: bool = True,
    tower: Tower | None = None,
) -> tuple[TensorRTTower, FakeDriver, FakeTensorRT]:
    tower = tower or read_manifest(bundle).towers[name]
    length = None
    if name == "text":
        assert tower.length is not None
        length = Range(min=tower.length.min, opt=16, max=tower.length.max)
    profiles = tuple(Profile(batch=batch, length=length) for batch in batches)
    plan = bundle / f"{name}.plan"
    plan.write_bytes(str(bundle / tower.graph).encode())
    engine = Engine(
        kind="tensorrt",
        tower=name,
        file=plan.name,
        target=Target(library="tensorrt", version="10.13.0", device="sm80"),
        profiles=profiles,
    )
    driver = FakeDriver(capacity)
    trt = FakeTensorRT(driver, profiles, capturable=capturable)
    return TensorRTTower(Cuda(0, driver), trt, bundle, engine, tower, parallel, graphs), driver, trt


def reference(bundle: Path, name: Any, inputs: np.ndarray) -> np.ndarray:
    manifest = read_manifest(bundle)
    engine = next(e for e in manifest.engines if e.tower == name)
    runtime = open_onnxruntime(bundle, engine, manifest.towers[name], manifest.precision)
    return run_in_batches(runtime, inputs, 32)


@pytest.fixture
def pixels(bundle_copy: Path) -> np.ndarray:
    size = read_manifest(bundle_copy).preprocess.size
    return np.random.default_rng(0).integers(0, 256, (150, *size, 3), dtype=np.uint8)


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 12, 16, 40, 64, 65, 150])
def test_any_batch_size_gives_the_same_embeddings(bundle_copy: Path, pixels: np.ndarray, rows: int) -> None:
    tower, _, trt = make_tower(bundle_copy)
    np.testing.assert_allclose(tower.run(pixels[:rows]), reference(bundle_copy, "image", pixels[:rows]), atol=2e-6)
    assert all(1 <= shape[0] <= 8 or 16 <= shape[0] <= 64 for shape in trt.shapes)


def test_the_gate_runs_engines_before_there_is_a_manifest(bundle_copy: Path, pixels: np.ndarray) -> None:
    expected = reference(bundle_copy, "image", pixels[:2])
    (bundle_copy / "manifest.json").rename(bundle_copy / "later.json")
    text = (bundle_copy / "later.json").read_bytes()
    tower = msgspec.json.decode(text, type=Manifest).towers["image"]
    opened, _, _ = make_tower(bundle_copy, tower=tower)
    np.testing.assert_allclose(opened.run(pixels[:2]), expected, atol=2e-6)


def test_texts_are_padded_to_buckets_with_the_pad_id(bundle_copy: Path) -> None:
    with Embedder(bundle_copy) as clip:
        ids = clip.tokenize(["a red circle", "two blue squares on a green background"])
    tower, _, trt = make_tower(bundle_copy, "text")
    expected = reference(bundle_copy, "text", ids)
    np.testing.assert_allclose(tower.run(ids[:, :13]), expected, atol=2e-6)
    np.testing.assert_allclose(tower.run(ids), expected, atol=2e-6)
    assert [shape[1] for shape in trt.shapes] == [16, ids.shape[1]]


def test_small_batches_become_graphs_from_their_second_run_on(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=1)
    expected = reference(bundle_copy, "image", pixels[:4])
    for launched in (0, 1, 2):
        np.testing.assert_allclose(tower.run(pixels[:4]), expected, atol=2e-6)
        assert driver.launched == launched
    tower.run(pixels[:40])
    tower.run(pixels[:40])
    assert driver.launched == 2  # 48 rows keep the GPU busy: no graph


def test_a_graph_never_outlives_the_buffers_in_it(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=1)
    expected = reference(bundle_copy, "image", pixels[:64])
    for _ in range(3):
        tower.run(pixels[:2])
    assert len(driver.graphs) == 1
    np.testing.assert_allclose(tower.run(pixels[:64]), expected, atol=2e-6)  # buffers grow and move
    assert not driver.graphs
    for _ in range(3):
        np.testing.assert_allclose(tower.run(pixels[:2]), expected[:2], atol=2e-6)
    assert len(driver.graphs) == 1


def test_graphs_are_bounded_in_number(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=1, graphs=GraphLimits(count=2))
    tower.run(pixels[:8])  # the largest first: nothing grows afterwards
    for rows in (8, 6, 4, 3, 2, 1):
        for _ in range(3):
            tower.run(pixels[:rows])
    assert len(driver.graphs) == 2


def test_an_engine_that_cannot_be_captured_runs_without_graphs(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, capturable=False)
    expected = reference(bundle_copy, "image", pixels[:4])
    for _ in range(4):
        np.testing.assert_allclose(tower.run(pixels[:4]), expected, atol=2e-6)
    assert not driver.graphs
    assert not driver.launched


def test_threads_share_a_tower(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=2)
    expected = reference(bundle_copy, "image", pixels)
    problems: list[BaseException] = []

    def work(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for _ in range(3):
                start, rows = int(rng.integers(0, 80)), int(rng.integers(1, 70))
                found = tower.run(pixels[start : start + rows])
                np.testing.assert_allclose(found, expected[start : start + rows], atol=2e-6)
        except BaseException as error:  # noqa: BLE001
            problems.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    tower.close()
    assert not driver.blocks
    assert not driver.pinned
    assert not driver.handles
    assert not driver.graphs


def test_a_closed_tower_says_so(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, _, _ = make_tower(bundle_copy)
    tower.run(pixels[:1])
    tower.close()
    tower.close()
    with pytest.raises(errors.EngineError, match="closed"):
        tower.run(pixels[:1])


def test_too_little_memory_halves_the_batch(bundle_copy: Path, pixels: np.ndarray) -> None:
    row = pixels[0].nbytes
    tower, _, trt = make_tower(bundle_copy, batches=(Range(min=1, opt=32, max=64),), capacity=20 * (row + 4000))
    np.testing.assert_allclose(tower.run(pixels[:64]), reference(bundle_copy, "image", pixels[:64]), atol=2e-6)
    assert max(shape[0] for shape in trt.shapes) == 16


def test_no_room_for_one_row_names_the_bytes(bundle_copy: Path, pixels: np.ndarray) -> None:
    row = pixels[0].nbytes
    tower, driver, _ = make_tower(bundle_copy, capacity=row // 2)
    with pytest.raises(errors.EngineError, match=r"no room for a batch of 1: .* MB needed, .* MB free"):
        tower.run(pixels[:4])
    driver.capacity = 1 << 30  # the others have left: it goes on
    np.testing.assert_allclose(tower.run(pixels[:4]), reference(bundle_copy, "image", pixels[:4]), atol=2e-6)


def test_memory_does_not_grow_with_the_number_of_calls(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=1)
    tower.run(pixels[:64])
    used, handles = driver.used, len(driver.handles)
    for rows in range(17, 64, 4):
        tower.run(pixels[:rows])
    assert driver.used == used
    assert len(driver.handles) == handles


def test_warm_up_captures_every_small_batch(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=1)
    tower.warm_up()
    captured, launched = len(driver.graphs), driver.launched
    assert captured == 7  # 1, 2, 3, 4, 6, 8 of the one profile and 16 of the other
    tower.run(pixels[:5])
    assert driver.launched == launched + 1
    assert len(driver.graphs) == captured


def test_rows_on_the_device_stay_there(bundle_copy: Path, pixels: np.ndarray) -> None:
    tower, driver, _ = make_tower(bundle_copy, parallel=1)
    cuda = tower._cuda
    expected = reference(bundle_copy, "image", pixels[:64])
    shape = tower._shape
    slot = tower._pool.acquire()
    stream = cuda.create_stream()
    cases = ((3, 3, 0, 0), (3, 4, 0, 0), (64, 64, 1, 0), (64, 64, 1, 16), (40, 48, 1, 0), (3, 3, 0, 0), (3, 3, 0, 16))
    for rows, batch, profile, offset in cases:
        run = Run(0, rows, profile, batch, None)
        block, target = cuda.allocate(pixels[:rows].nbytes + offset), cuda.allocate(shape.output_bytes(rows))
        source = block + offset
        cuda.copy(source, np.ascontiguousarray(pixels[:rows]).ctypes.data, pixels[:rows].nbytes, stream)
        slot.embed_on_device(run, source, target, stream)
        found = np.empty((rows, shape.dim), dtype=np.float32)
        cuda.copy(found.ctypes.data, target, found.nbytes, stream)
        np.testing.assert_allclose(found, expected[:rows], atol=2e-6)
        cuda.free(block)
        cuda.free(target)
    tower._pool.release(slot)
    cuda.destroy_stream(stream)
    tower.close()
    assert not driver.blocks


def test_memory_of_a_result_goes_back_as_it_came(
    bundle_copy: Path, pixels: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result without a stream may still be read when it is dropped: only cuMemFree of cuMemAlloc's memory waits for that."""
    monkeypatch.setattr(tensorrt_tower, "device_view", lambda value, stream: value)
    tower, driver, _ = make_tower(bundle_copy, parallel=1)
    rows = np.concatenate([pixels[:3], pixels[:1]])  # on a device memory goes on after the last row
    address = tower._cuda.allocate(rows.nbytes)
    stream = tower._cuda.create_stream()
    tower._cuda.copy(address, rows.ctypes.data, rows.nbytes, stream)
    view = SimpleNamespace(ptr=address, shape=(3, *rows.shape[1:]), dtype=rows.dtype, device_id=0)
    expected = reference(bundle_copy, "image", pixels[:3])
    for used in (None, stream):
        embeds = tower.run_on_device(view, used)
        assert (embeds.address in driver.in_order) == (used is not None)
        found = np.empty(embeds.shape, dtype=np.float32)
        tower._cuda.copy(found.ctypes.data, embeds.address, found.nbytes, stream)
        np.testing.assert_allclose(found, expected, atol=2e-6)
        embeds.close()
        assert embeds.address not in driver.blocks
    tower._cuda.free(address)
    tower._cuda.destroy_stream(stream)
    tower.close()
    assert not driver.blocks
    assert not driver.handles


def test_a_flipped_byte_is_found_before_the_plan_is_loaded(rtx_bundle: Path) -> None:
    from engines.tensorrt.library import load_engine

    manifest = read_manifest(rtx_bundle)
    engine = next(e for e in manifest.engines if e.kind == "tensorrt-rtx")
    data = bytearray((rtx_bundle / engine.file).read_bytes())
    data[len(data) // 2] ^= 1
    (rtx_bundle / engine.file).write_bytes(data)
    with pytest.raises(errors.BundleError, match="was changed"):
        load_engine(None, rtx_bundle, engine, "image.onnx", 0, deque())


def test_a_plan_that_the_library_refuses(bundle_copy: Path) -> None:
    tower = read_manifest(bundle_copy).towers["image"]
    (bundle_copy / "bad.plan").write_bytes(b"nonsense")
    engine = Engine(
        kind="tensorrt",
        tower="image",
        file="bad.plan",
        target=Target(library="tensorrt", version="10.13.0", device="sm80"),
        profiles=(Profile(batch=LATENCY),),
    )
    driver = FakeDriver()
    trt = FakeTensorRT(driver, engine.profiles)
    with pytest.raises(
        errors.EngineError, match=r"cannot load .*built for sm80 with tensorrt 10\.13\.0.*header is wrong"
    ):
        TensorRTTower(Cuda(0, driver), trt, bundle_copy, engine, tower, 1, None)


def test_cuda_errors_have_their_own_words() -> None:
    driver = FakeDriver()
    driver.cuMemcpyAsync = lambda *arguments: (1,)  # type: ignore[method-assign]
    with pytest.raises(CudaError, match=r"cuMemcpyAsync failed on device 0: INVALID_VALUE \(code 1\)"):
        Cuda(0, driver).copy(0, 0, 1, 0)


def test_a_slot_frees_what_it_took() -> None:
    driver = FakeDriver()
    shape = TowerShape(input="pixels", output="image_embeds", dtype=np.dtype(np.uint8), row=(2, 2, 3), dim=4)
    slot = Slot(Cuda(0, driver), None, None, shape, None, deque())
    slot.close()
    assert not driver.handles
