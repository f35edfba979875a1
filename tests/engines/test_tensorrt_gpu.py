"""TensorRT and TensorRT-RTX on a real GPU, whichever of the two is installed: build, run, parity, graphs, threads, memory.

Run by ``make gpu``; the first line of its output names GPU, driver and library.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import engines
from engines import errors
from engines.device.gpu import find_gpu, gpu_missing
from engines.manifest import manifest_bytes, read_manifest
from engines.tensorrt.library import library_version
from engines.verification.embeddings import verify_bundle

KINDS = [kind for kind in ("tensorrt", "tensorrt-rtx") if library_version(kind) is not None]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu_missing() is not None, reason=str(gpu_missing())),
    pytest.mark.skipif(not KINDS, reason="neither tensorrt nor tensorrt_rtx is installed"),
]


@pytest.fixture(scope="module", params=[(kind, precision) for kind in KINDS for precision in ("fp32", "fp16", "bf16")])
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporter.options.engine_options import EngineOptions, parse_batches
    from exporter.pipeline import export

    kind, precision = request.param
    gpu = find_gpu()
    print(f"\n{gpu}, {kind} {library_version(kind)}, {precision}")
    return export(
        "demo",
        precision=precision,
        engines=(kind, "onnxruntime"),
        out=tmp_path_factory.mktemp("gpu") / "demo",
        parity_samples=64,
        engine_options=EngineOptions(batches=parse_batches(["1:1:8", "16:64:256"])),
    )


@pytest.fixture
def pixels(bundle: Path) -> np.ndarray:
    size = read_manifest(bundle).preprocess.size
    return np.random.default_rng(0).integers(0, 256, (600, *size, 3), dtype=np.uint8)


def kind_of(bundle: Path) -> str:
    return read_manifest(bundle).engines[0].kind


def load(bundle: Path, **options: Any) -> engines.Embedder:
    return engines.load(bundle, engine=kind_of(bundle), **options)


def test_the_gate_ran_the_engine_itself(bundle: Path) -> None:
    row = next(row for row in read_manifest(bundle).parity if row.engine == kind_of(bundle))
    assert row.engine_ran
    assert row.passed
    assert verify_bundle(bundle, engine=kind_of(bundle))[0].passed


def test_auto_takes_it(bundle: Path) -> None:
    with engines.load(bundle) as clip:
        assert clip.engines["image"].startswith(kind_of(bundle))


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 12, 16, 40, 65, 256, 257, 600])
def test_any_batch_size(bundle: Path, pixels: np.ndarray, rows: int) -> None:
    with load(bundle) as clip:
        together = clip.encode_image(pixels[:rows])
        alone = np.concatenate([clip.encode_image(pixels[i : i + 1]) for i in (0, rows - 1)])
    assert (together[[0, rows - 1]] * alone).sum(axis=1).min() > 0.999


def test_graphs_change_nothing(bundle: Path, pixels: np.ndarray) -> None:
    with load(bundle, parallel=1) as captured, load(bundle, parallel=1, cuda_graphs=False) as plain:
        for rows in (1, 2, 3, 8, 16):
            expected = plain.encode_image(pixels[:rows])
            for _ in range(4):
                np.testing.assert_allclose(captured.encode_image(pixels[:rows]), expected, atol=1e-3)


def test_threads(bundle: Path, pixels: np.ndarray) -> None:
    problems: list[BaseException] = []
    with load(bundle, parallel=3) as clip:
        expected = clip.encode_image(pixels)

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            try:
                for _ in range(20):
                    start, rows = int(rng.integers(0, 300)), int(rng.integers(1, 300))
                    found = clip.encode_image(pixels[start : start + rows])
                    assert (found * expected[start : start + rows]).sum(axis=1).min() > 0.999
            except BaseException as error:  # noqa: BLE001
                problems.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems


def test_torch_tensors_stay_on_the_gpu(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle) as clip:
        for rows in (1, 8, 40, 256):
            on_device = torch.from_numpy(pixels[:rows]).cuda()
            stream = torch.cuda.Stream()
            with torch.cuda.stream(stream):
                stream.wait_stream(torch.cuda.default_stream())
                embeds = clip.encode_image(on_device)
                assert embeds.is_cuda
                host = embeds.cpu().numpy()
            assert (host * clip.encode_image(pixels[:rows])).sum(axis=1).min() > 0.999
        with pytest.raises(errors.InputError, match="not contiguous"):
            clip.encode_image(torch.from_numpy(pixels[:8]).cuda().permute(0, 2, 1, 3))
        with pytest.raises(errors.InputError, match="must be uint8"):
            clip.encode_image(torch.from_numpy(pixels[:8]).cuda().float())


def test_device_memory_does_not_grow(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle) as clip:
        for rows in (600, 1, 8):
            clip.encode_image(pixels[:rows])
        before = torch.cuda.mem_get_info()[0]
        for rows in range(1, 200):
            clip.encode_image(pixels[:rows])
        assert before - torch.cuda.mem_get_info()[0] < 64 << 20


def test_little_memory_halves_the_batch(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle, parallel=1) as clip:
        expected = clip.encode_image(pixels[:8])
        free = torch.cuda.mem_get_info()[0]
        hog = torch.empty(max(0, free - (24 << 20)), dtype=torch.uint8, device="cuda")
        try:
            found = clip.encode_image(pixels[:256])
            assert (found[:8] * expected).sum(axis=1).min() > 0.999
        except errors.EngineError as error:
            assert "no room for a batch of" in str(error)  # noqa: PT017
        finally:
            del hog
            torch.cuda.empty_cache()
        assert (clip.encode_image(pixels[:8]) * expected).sum(axis=1).min() > 0.999


def test_an_engine_for_another_gpu_is_named(bundle: Path, tmp_path: Path) -> None:
    import shutil

    gpu = find_gpu()
    assert gpu is not None
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    manifest = read_manifest(copy)
    other = "sm75" if gpu.target != "sm75" else "sm80"
    changed = tuple(
        msgspec.structs.replace(engine, target=msgspec.structs.replace(engine.target, device=other))
        for engine in manifest.engines
        if engine.kind != "onnxruntime"
    )
    (copy / "manifest.json").write_bytes(manifest_bytes(msgspec.structs.replace(manifest, engines=changed)))
    with pytest.raises(errors.EngineUnavailableError, match=rf"built for {other}, the GPU here is {gpu.target}"):
        engines.load(copy)
