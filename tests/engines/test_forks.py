"""Children that are forked from a process that has loaded, and used, a bundle: they answer as the parent does, and end."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import types
from pathlib import Path
from typing import Any

import pytest
from aotinductor_bundle import aotinductor_bundle
from broken_libraries import add_engines

from engines.errors import EngineError
from engines.process.forks import ForkSafeLock, PerProcess
from engines.runtimes.choice import open_for_forks

# The child ends by Python's ordinary exit, as gunicorn's workers do, or by multiprocessing's. An alarm ends what hangs.
CHILD = """
import os, signal, sys
import numpy as np
import engines
bundle, engine, file, states = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]
clip = engines.load(bundle, engine=engine)
images = [np.full((80, 60, 3), shade, np.uint8) for shade in range(0, 240, 15)]
texts = ["a red circle", "two blue squares on a white background"] * 8
def answers():
    found = [clip.encode_image(images), clip.encode_text(texts), clip.classify(images[:2], texts[:2])]
    found.append(np.stack([p for _, batch in clip.preprocess_ahead(images, 7) for p in batch]))
    return found
for state in states:
    if state == "used":
        answers()
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        found = answers()
        np.savez(file, *found)
        grandchild = os.fork()
        if grandchild == 0:
            signal.alarm(60)
            np.testing.assert_allclose(clip.encode_image(images), found[0], atol=2e-6)
            clip.close()
            sys.exit(0)
        assert os.waitpid(grandchild, 0)[1] == 0
        sys.exit(7)
    status = os.waitpid(pid, 0)[1]
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7, status
    for here, there in zip(answers(), np.load(file).values()):
        np.testing.assert_allclose(there, here, atol=2e-6)
    print(state, "equal", flush=True)  # before the next child takes a copy along
"""

needs_fork = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no fork")


@pytest.fixture(scope="module")
def cpu_bundle(demo_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with engines of ONNX Runtime and OpenVINO, which read the same graphs."""
    pytest.importorskip("openvino")
    copy = Path(shutil.copytree(demo_bundle, tmp_path_factory.mktemp("cpu") / "bundle"))
    add_engines(copy, "openvino")
    return copy


@pytest.fixture(scope="module")
def package_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aotinductor_bundle(tmp_path_factory)


def run(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False, timeout=240
    )


@needs_fork
@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_child_answers_as_its_parent(engine: str, cpu_bundle: Path, tmp_path: Path) -> None:
    """One that is forked when the bundle has only been loaded, and one when it has been used."""
    ran = run(CHILD, str(cpu_bundle), engine, str(tmp_path / "found.npz"), "loaded", "used")
    assert ran.stdout.splitlines() == ["loaded equal", "used equal"], ran.stderr


@needs_fork
def test_a_child_with_a_package(package_bundle: Path, tmp_path: Path) -> None:
    ran = run(CHILD, str(package_bundle), "aotinductor", str(tmp_path / "found.npz"), "used")
    assert ran.stdout.strip() == "used equal", ran.stderr


@needs_fork
def test_processes_of_multiprocessing(demo_bundle: Path) -> None:
    code = """
import multiprocessing, sys
import numpy as np
import engines
clip = engines.load(sys.argv[1], engine="onnxruntime")
images = [np.full((80, 60, 3), shade, np.uint8) for shade in range(0, 240, 60)]
expected = clip.encode_image(images)
def embed(index):
    return clip.encode_image([images[index]])[0], clip.preprocess(images[index])
with multiprocessing.get_context("fork").Pool(2) as pool:
    found = pool.map_async(embed, range(4)).get(60)
np.testing.assert_allclose([embeds for embeds, _ in found], expected, atol=2e-6)
print("equal")
"""
    ran = run(code, str(demo_bundle))
    assert ran.stdout.strip() == "equal", ran.stderr


@needs_fork
def test_a_relative_path_and_another_folder(demo_bundle: Path) -> None:
    code = """
import os, signal, sys
import engines
os.chdir(os.path.dirname(sys.argv[1]))
clip = engines.load(os.path.basename(sys.argv[1]), engine="onnxruntime")
if os.fork() == 0:
    signal.alarm(60)
    os.chdir("/")
    clip.encode_text(["a red circle"])
    sys.exit(0)
print(os.wait()[1])
"""
    ran = run(code, str(demo_bundle))
    assert ran.stdout.strip() == "0", ran.stderr


@needs_fork
def test_batches_ahead_are_the_parents(demo_bundle: Path) -> None:
    code = """
import os, signal, sys, threading
import numpy as np
import engines
clip = engines.load(sys.argv[1], decoder="pillow")
ahead = clip.preprocess_ahead([np.zeros((9, 9, 3), np.uint8)] * 50, 5)
next(ahead)
if os.fork() == 0:
    signal.alarm(60)
    try:
        next(ahead)
    except engines.errors.EngineError as error:
        print(error, flush=True)
    sys.exit(0)
assert os.wait()[1] == 0
waiting = [future for _, pending in ahead.gi_frame.f_locals["waiting"] for future in pending.results]
held = threading.Event()
def hold():  # as a thread that decodes does while it sets the result
    with waiting[-1]._condition:
        held.set()
        end.wait()
end = threading.Event()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
if os.fork() == 0:
    signal.alarm(60)
    ahead.close()
    sys.exit(0)
assert os.wait()[1] == 0
end.set()
thread.join()
assert len([1 for _ in ahead]) == 9
"""
    ran = run(code, str(demo_bundle))
    assert ran.returncode == 0, ran.stderr
    assert "forked while images were read ahead: start again in the child process" in ran.stdout


@needs_fork
def test_an_engine_on_a_gpu_says_so_in_a_child(monkeypatch: pytest.MonkeyPatch, demo_bundle: Path) -> None:
    """Everything but the card: the child's first call is a named error, and closing there frees nothing."""
    from engines.process import forks
    from engines.runtimes import choice as runtime

    closed: list[str] = []

    class OnGpu:
        on_gpu = True

        def close(self) -> None:
            closed.append("closed")

    monkeypatch.setattr(runtime, "open_tower", lambda *arguments, **options: OnGpu())
    engine: Any = None
    tower: Any = None
    held = open_for_forks(demo_bundle, engine, tower, "fp16")
    assert held.get().on_gpu
    monkeypatch.setattr(forks, "os", types.SimpleNamespace(getpid=lambda: os.getpid() + 1))  # what a child sees
    with pytest.raises(EngineError, match="before this process was forked, and CUDA does not survive a fork: load"):
        held.get()
    assert held.made_here() is None


@needs_fork
def test_results_on_a_gpu_are_not_freed_by_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    from engines.device import device_arrays

    freed: list[int] = []
    result = device_arrays.DeviceEmbeddings(77, (1, 2), 0, None, freed.append)
    other = device_arrays.DeviceEmbeddings(88, (1, 2), 0, None, freed.append)
    other.close()
    monkeypatch.setattr(device_arrays, "os", types.SimpleNamespace(getpid=lambda: os.getpid() + 1))
    result.close()
    assert freed == [88]


@needs_fork
def test_a_lock_is_free_in_the_child() -> None:
    code = """
import os, signal, threading
from engines.process.forks import ForkSafeLock
lock, held, end = ForkSafeLock(), threading.Event(), threading.Event()
def hold():
    with lock:
        held.set()
        end.wait()
thread = threading.Thread(target=hold)
thread.start()
held.wait()
if os.fork() == 0:
    signal.alarm(20)
    with lock:
        os._exit(0)
end.set()
print(os.wait()[1])
"""
    assert run(code).stdout.strip() == "0"


def test_one_value_for_many_threads() -> None:
    made: list[int] = []
    held = PerProcess(lambda: made.append(1) or object())
    values: list[object] = []
    threads = [threading.Thread(target=lambda: values.append(held.get())) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert len(set(map(id, values))) == 1
    with ForkSafeLock() as nothing:
        assert nothing is None
