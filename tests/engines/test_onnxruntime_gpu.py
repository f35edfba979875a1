"""ONNX Runtime's CUDA provider on a real GPU: where nodes run, device arrays, streams, graphs, threads, memory.

Needs onnxruntime-gpu in onnxruntime's place; run by ``make gpu``.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from shallow import register

import engines
from engines import errors
from engines.device.gpu import find_gpu, gpu_missing
from engines.manifest import read_manifest

CUDA = "CUDAExecutionProvider"
PRECISIONS = ("fp32", "fp16", "bf16")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(gpu_missing() is not None, reason=str(gpu_missing())),
    pytest.mark.skipif(
        CUDA not in onnxruntime.get_available_providers(), reason="this ONNX Runtime has no CUDA provider"
    ),
]


@pytest.fixture(scope="module", params=PRECISIONS)
def bundle(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from exporter.pipeline import export

    print(f"\n{find_gpu()}, onnxruntime {onnxruntime.__version__}, {request.param}")
    out = tmp_path_factory.mktemp("gpu") / "demo"
    return export("demo", precision=request.param, engines=("onnxruntime",), out=out, parity_samples=64)


@pytest.fixture
def pixels(bundle: Path) -> np.ndarray:
    size = read_manifest(bundle).preprocess.size
    return np.random.default_rng(0).integers(0, 256, (600, *size, 3), dtype=np.uint8)


def load(bundle: Path, **options: Any) -> engines.Embedder:
    return engines.load(bundle, engine="onnxruntime", device="cuda", **options)


def least_cosine(found: np.ndarray, expected: np.ndarray) -> float:
    return float((found * expected).sum(axis=1).min())


def test_no_node_runs_on_the_cpu_unasked(bundle: Path) -> None:
    with load(bundle) as clip:  # an error names them
        assert all(CUDA in what for what in clip.engines.values())


def test_the_gate_ran_on_the_gpu(bundle: Path) -> None:
    row = next(row for row in read_manifest(bundle).parity if row.engine == "onnxruntime")
    assert row.passed
    assert CUDA in row.verified_with


@pytest.mark.parametrize("rows", [1, 3, 40, 256, 300])
def test_torch_tensors_stay_on_the_gpu(bundle: Path, pixels: np.ndarray, rows: int) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle, towers=["image"]) as clip:
        expected = clip.encode_image(pixels[:rows])
        found = clip.encode_image(torch.from_numpy(pixels[:rows]).cuda())
        assert found.is_cuda
        assert least_cosine(found.cpu().numpy(), expected) > 0.9999


def test_the_order_of_the_callers_stream_is_kept(bundle: Path, pixels: np.ndarray) -> None:
    """The input is written, and the result read, by work that the stream has not done yet when the call is made."""
    torch = pytest.importorskip("torch")
    with load(bundle, towers=["image"]) as clip:
        expected = clip.encode_image(pixels[:64])
        source = torch.from_numpy(pixels[:64]).cuda()
        clip.encode_image(source)  # memory for this shape is there from now on
        for stream in (torch.cuda.Stream(), torch.cuda.default_stream()):
            inputs = torch.zeros_like(source)
            torch.cuda.synchronize()
            with torch.cuda.stream(stream):
                torch.cuda._sleep(1_000_000_000)  # cycles, about half a second
                inputs.copy_(source)
                found = clip.encode_image(inputs)
                done_early = stream.query()
                kept = found.clone()
                inputs.zero_()
                del found
            stream.synchronize()
            assert not done_early, "the call waited for the stream"
            assert least_cosine(kept.cpu().numpy(), expected) > 0.9999


def test_ids_at_any_address(bundle: Path) -> None:
    """Rows of a text tower are not multiples of 16 bytes: a slice of them begins where no kernel likes it."""
    torch = pytest.importorskip("torch")
    with load(bundle, towers=["text"]) as clip:
        ids = clip.tokenize([f"a photo of {number} red circles" for number in range(9)])
        expected = clip.encode_text(ids)
        width = int(ids.argmax(axis=1).max() + 1) | 1  # up to the longest text's end, and odd
        on_device = torch.from_numpy(np.ascontiguousarray(ids[:, :width])).cuda()
        runtime: Any = clip._runtimes["text"].get()
        for start in range(4):
            found = runtime.run_on_device(on_device[start:], torch.cuda.current_stream().cuda_stream)
            host = torch.as_tensor(found, device="cuda").cpu().numpy()
            assert least_cosine(host, expected[start:]) > 0.9999


def test_wrong_arrays_are_refused(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle, towers=["image"]) as clip:
        on_device = torch.from_numpy(pixels[:8]).cuda()
        for wrong, words in (
            (on_device.permute(0, 2, 1, 3), "not contiguous"),
            (on_device.float(), "must be uint8"),
            (on_device[:0], "no row"),
        ):
            with pytest.raises(errors.InputError, match=words):
                clip.encode_image(wrong)


def test_graphs_change_nothing(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    captions = [f"a photo of {number} red circles and a blue square" for number in range(9)]
    with load(bundle) as plain, load(bundle, cuda_graphs=[1, 4, 8]) as captured:
        for rows in (1, 2, 4, 7, 8, 9, 40):
            expected = plain.encode_image(pixels[:rows])
            texts = plain.encode_text(captions[: min(rows, 9)])
            for _ in range(3):
                assert least_cosine(captured.encode_image(pixels[:rows]), expected) > 0.9999
                assert least_cosine(captured.encode_text(captions[: min(rows, 9)]), texts) > 0.9999
                on_device = captured.encode_image(torch.from_numpy(pixels[:rows]).cuda())
                assert least_cosine(on_device.cpu().numpy(), expected) > 0.9999


@pytest.mark.parametrize("graphs", [False, True])
def test_threads(bundle: Path, pixels: np.ndarray, graphs: bool) -> None:
    share_with_threads(bundle, pixels, graphs)


def test_threads_share_a_tower_of_convolutions(tmp_path: Path) -> None:
    """cuDNN's handle may be used by one thread at a time, and ONNX Runtime has one for all runs in a stream that it was given."""
    from exporter.pipeline import export

    name = register("RN50", tmp_path)
    path = export(
        name, pretrained="none", precision="fp16", engines=("onnxruntime",), towers=("image",), out=tmp_path / "b"
    )
    size = read_manifest(path).preprocess.size
    # Plain colours: random weights give almost the same embedding to all pictures of noise.
    colours = np.random.default_rng(0).integers(0, 256, (600, 1, 1, 3), dtype=np.uint8)
    share_with_threads(path, np.ascontiguousarray(np.broadcast_to(colours, (600, *size, 3))), False)


def share_with_threads(bundle: Path, pixels: np.ndarray, graphs: bool) -> None:
    """Six threads embed parts of (600, H, W, 3) pixels, from the host and on the GPU, and find what one thread alone found."""
    torch = pytest.importorskip("torch")
    problems: list[BaseException] = []
    with load(bundle, towers=["image"], cuda_graphs=graphs) as clip:
        expected = clip.encode_image(pixels)

        def work(seed: int) -> None:
            rng = np.random.default_rng(seed)
            stream = torch.cuda.Stream()
            try:
                for _ in range(20):
                    start, rows = int(rng.integers(0, 300)), int(rng.integers(1, 300 if seed % 2 else 9))
                    part = pixels[start : start + rows]
                    assert least_cosine(clip.encode_image(part), expected[start : start + rows]) > 0.999
                    with torch.cuda.stream(stream):
                        found = clip.encode_image(torch.from_numpy(part).cuda()).cpu().numpy()
                    assert least_cosine(found, expected[start : start + rows]) > 0.999
            except BaseException as error:  # noqa: BLE001
                problems.append(error)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not problems


def test_memory_is_bounded_and_does_not_grow(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle, towers=["image"]) as clip:
        clip.encode_image(pixels[:256])
        clip.encode_image(torch.from_numpy(pixels[:256]).cuda())
        before = torch.cuda.mem_get_info()[0]
        for rows in range(1, 200):
            clip.encode_image(torch.from_numpy(pixels[:rows]).cuda())
        assert before - torch.cuda.mem_get_info()[0] < 256 << 20


def test_a_small_limit_computes_in_parts(bundle: Path, pixels: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    with load(bundle, towers=["image"]) as clip:
        expected = clip.encode_image(pixels[:256])
    before = torch.cuda.mem_get_info()[0]
    with load(bundle, towers=["image"], cuda_memory_limit=24 << 20) as clip:
        found = clip.encode_image(torch.from_numpy(pixels[:256]).cuda()).cpu().numpy()
        assert least_cosine(found, expected) > 0.9999
        for rows in range(1, 64, 3):
            assert least_cosine(clip.encode_image(pixels[:rows]), expected[:rows]) > 0.9999
        # cuBLAS and cuDNN have memory of their own beside the arena.
        assert before - torch.cuda.mem_get_info()[0] < 1 << 30
