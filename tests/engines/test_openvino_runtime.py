"""The openvino engine: it gives ONNX Runtime's embeddings, for every batch, from many threads, and says what is wrong."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

import engines
from engines.embedder import Embedder
from engines.errors import EngineError, EngineUnavailableError, InputError
from engines.manifest import Engine, Manifest, read_manifest
from engines.runtimes.choice import candidates, choose_engine, open_tower, why_not

pytest.importorskip("openvino")


@pytest.fixture(scope="module")
def manifest(demo_bundle: Path) -> Manifest:
    """The demo bundle's, with openvino engines beside its own: both run the same graphs."""
    found = read_manifest(demo_bundle)
    own = [
        msgspec.structs.replace(
            engine,
            kind="openvino",
            target=msgspec.structs.replace(engine.target, library="openvino", device="cpu"),
        )
        for engine in found.engines
    ]
    return msgspec.structs.replace(found, engines=(*found.engines, *own))


def engine_of(manifest: Manifest, tower: str) -> Engine:
    return next(engine for engine in manifest.engines if (engine.kind, engine.tower) == ("openvino", tower))


@pytest.fixture(scope="module")
def clip(demo_bundle: Path) -> Iterator[Embedder]:
    with engines.load(demo_bundle, engine="onnxruntime") as embedder:
        yield embedder


@pytest.mark.parametrize("rows", [1, 2, 7, 40])
def test_images_are_those_of_onnx_runtime(rows: int, demo_bundle: Path, manifest: Manifest, clip: Embedder) -> None:
    pixels = np.random.default_rng(rows).integers(0, 256, (rows, 64, 64, 3), dtype=np.uint8)
    tower = open_tower(demo_bundle, engine_of(manifest, "image"), manifest.towers["image"], "fp32")
    np.testing.assert_allclose(tower.run(pixels), clip.encode_image(pixels), atol=5e-6)
    tower.close()


def test_texts_are_those_of_onnx_runtime(demo_bundle: Path, manifest: Manifest, clip: Embedder) -> None:
    tower = open_tower(demo_bundle, engine_of(manifest, "text"), manifest.towers["text"], "fp32")
    for texts in (["a red circle"], ["two blue squares", "a green star on a white background"]):
        ids = clip.tokenize(texts)
        for length in (ids.shape[1], int(ids.argmax(axis=1).max()) + 1):
            np.testing.assert_allclose(tower.run(ids[:, :length]), clip.encode_text(texts), atol=5e-6)
    tower.close()


def test_results_are_the_callers(demo_bundle: Path, manifest: Manifest) -> None:
    """A later run does not change what an earlier one gave; threads get what they asked for."""
    tower = open_tower(demo_bundle, engine_of(manifest, "image"), manifest.towers["image"], "fp32", threads=1)
    inputs = [np.full((2, 64, 64, 3), 20 * i, np.uint8) for i in range(8)]
    inputs = [x + np.random.default_rng(i).integers(0, 20, x.shape, dtype=np.uint8) for i, x in enumerate(inputs)]
    alone = [tower.run(x) for x in inputs]
    kept = [x.copy() for x in alone]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = tower.run(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, before in enumerate(kept):
        np.testing.assert_array_equal(alone[i], before)
        np.testing.assert_allclose(found[i], before, atol=1e-6)
    tower.close()
    tower.close()
    with pytest.raises(EngineError, match="closed"):
        tower.run(inputs[0])


def test_closing_between_runs_leaves_nobody_waiting(demo_bundle: Path, manifest: Manifest) -> None:
    tower = open_tower(demo_bundle, engine_of(manifest, "image"), manifest.towers["image"], "fp32", threads=1)
    pixels = np.zeros((4, 64, 64, 3), np.uint8)
    outcomes: list[str] = []

    def work() -> None:
        try:
            while True:
                assert tower.run(pixels).shape == (4, 64)
        except EngineError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
    for thread in threads:
        thread.start()
    tower.run(pixels)
    tower.close()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert len(outcomes) == 6
    assert all("closed" in text for text in outcomes)


def test_inputs_that_do_not_fit_are_a_sentence(demo_bundle: Path, manifest: Manifest) -> None:
    tower = open_tower(demo_bundle, engine_of(manifest, "image"), manifest.towers["image"], "fp32")
    with pytest.raises(EngineError, match="failed on uint8"):
        tower.run(np.zeros((2, 32, 32, 3), np.uint8))
    assert tower.run(np.zeros((2, 64, 64, 3), np.uint8)).shape == (2, 64), "the request is back after a failure"
    with pytest.raises(InputError, match="threads is 0"):
        open_tower(demo_bundle, engine_of(manifest, "image"), manifest.towers["image"], "fp32", threads=0)


def test_it_is_for_the_cpu(demo_bundle: Path, manifest: Manifest) -> None:
    assert why_not(engine_of(manifest, "image"), "fp32") is None
    with pytest.raises(EngineUnavailableError, match="runs on the CPU"):
        open_tower(demo_bundle, engine_of(manifest, "image"), manifest.towers["image"], "fp32", "cuda")


def test_what_may_run_on_a_gpu_comes_first(demo_bundle: Path, manifest: Manifest) -> None:
    assert choose_engine(demo_bundle, manifest, "image").kind == "onnxruntime"
    for_cpu = [
        msgspec.structs.replace(e, target=msgspec.structs.replace(e.target, device="cpu")) for e in manifest.engines
    ]
    both_cpu = msgspec.structs.replace(manifest, engines=tuple(for_cpu))
    assert [item.engine.kind for item in candidates(demo_bundle, both_cpu, "image")] == ["openvino", "onnxruntime"]


# Sends a signal that Python handles: OpenVINO gives threads another stack for signals, see `engines.runtimes.openvino._core`.
SIGNAL = """
import os, signal, sys, threading
import engines
from engines.manifest import read_manifest
from engines.runtimes.choice import open_tower

bundle, way = sys.argv[1:]
manifest = read_manifest(bundle)
openvino = {engine.tower: engine for engine in manifest.engines if engine.kind == "openvino"}

def opened(tower):
    return open_tower(bundle, openvino[tower], manifest.towers[tower], "fp32")

if way == "two towers":
    towers = [opened("image"), opened("text")]
    while towers:
        towers.pop(0).close()
elif way == "closed in another thread":
    thread = threading.Thread(target=opened("image").close)
    thread.start()
    thread.join()
elif way == "a bundle":
    with engines.load(bundle, engine="openvino") as clip:
        clip.encode_text(["a red circle"])
signal.signal(signal.SIGTERM, lambda *_: print("handled", flush=True))
os.kill(os.getpid(), signal.SIGTERM)
"""


@pytest.mark.parametrize("way", ["two towers", "closed in another thread", "a bundle"])
def test_signals_are_handled_after_engines_were_closed(way: str, bundle_copy: Path, manifest: Manifest) -> None:
    (bundle_copy / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    command = [sys.executable, "-c", SIGNAL, str(bundle_copy), way]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (0, "handled\n"), ended.stderr
