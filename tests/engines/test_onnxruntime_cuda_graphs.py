"""CUDA graphs of ONNX Runtime's tower on a GPU: which shapes are captured, and which run replays which; on a pretended driver."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from onnxruntime_on_cuda import Opened, ids_of, pixels_of

from engines import errors
from engines.manifest import TextLength, read_manifest
from engines.onnxruntime import cuda_session as onnxruntime_cuda
from engines.onnxruntime.cuda_graphs import (
    DEFAULT_BATCHES,
    CapturedShapes,
    GraphShape,
    fitting,
    graph_batches,
    graph_shapes,
)
from engines.onnxruntime.cuda_session import OnnxRuntimeCudaTower


@pytest.fixture(autouse=True)
def _views(monkeypatch: pytest.MonkeyPatch) -> None:
    """The view of an array is the array's own, as DLPack's reader would need a real device."""
    monkeypatch.setattr(onnxruntime_cuda, "device_view", lambda value, stream: value)


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
