"""engines.runtimes.aotinductor: packages of the demo model on the CPU, and every reason not to load one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from aotinductor_bundle import aotinductor_bundle

import engines
from engines import errors
from engines.__main__ import main
from engines.device.gpu import gpu_missing
from engines.engine_kinds import KINDS
from engines.manifest import MANIFEST_NAME, Engine, Manifest, Target, manifest_bytes, read_manifest
from engines.runtimes import aotinductor as run_aotinductor
from engines.runtimes import torch_library
from engines.runtimes.aotinductor import AOTInductorTower, cpu_isa, open_tower, why_not
from engines.runtimes.choice import candidates
from engines.verification.embeddings import read_reference

no_gpu = pytest.mark.skipif(gpu_missing() is None, reason="there is a GPU")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aotinductor_bundle(tmp_path_factory)


@pytest.fixture
def copy(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "copy"))


def engine_of(manifest: Manifest, tower: str) -> Engine:
    return next(e for e in manifest.engines if e.kind == "aotinductor" and e.tower == tower)


def opened(bundle: Path, name: str, **options: int) -> AOTInductorTower:
    manifest = read_manifest(bundle)
    return open_tower(bundle, engine_of(manifest, name), manifest.towers[name], "fp32", **options)  # type: ignore[index]


@pytest.fixture(scope="module")
def image(bundle: Path) -> Iterator[AOTInductorTower]:
    tower = opened(bundle, "image")
    yield tower
    tower.close()


@pytest.fixture(scope="module")
def text(bundle: Path) -> Iterator[AOTInductorTower]:
    tower = opened(bundle, "text")
    yield tower
    tower.close()


@pytest.fixture(scope="module")
def inputs(bundle: Path) -> dict[str, np.ndarray]:
    return {name: np.asarray(rows) for name, rows in read_reference(bundle, read_manifest(bundle)).inputs.items()}


@pytest.fixture(scope="module")
def embeds(bundle: Path) -> dict[str, np.ndarray]:
    return dict(read_reference(bundle, read_manifest(bundle)).embeds)


class TestRuns:
    def test_any_batch(
        self, image: AOTInductorTower, inputs: dict[str, np.ndarray], embeds: dict[str, np.ndarray]
    ) -> None:
        rows = np.arange(70) % len(inputs["image"])
        for count in (*range(1, 10), 15, 16, 17, 31, 32, 33, 63, 64, 65, 70):
            got = image.run(inputs["image"][rows[:count]])
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, embeds["image"][rows[:count]], atol=1e-6)

    def test_any_length(
        self, text: AOTInductorTower, inputs: dict[str, np.ndarray], embeds: dict[str, np.ndarray]
    ) -> None:
        ids = inputs["text"]
        longest = int(ids.argmax(axis=1).max()) + 1
        for length in range(longest, ids.shape[1] + 1):
            np.testing.assert_allclose(text.run(ids[:3, :length]), embeds["text"][:3], atol=1e-6)
        assert text.run(ids[:1, :2]).shape == (1, embeds["text"].shape[1])

    def test_views_and_read_only_arrays(
        self, image: AOTInductorTower, inputs: dict[str, np.ndarray], embeds: dict[str, np.ndarray]
    ) -> None:
        pixels = inputs["image"].copy()
        pixels.setflags(write=False)
        np.testing.assert_allclose(image.run(pixels[::2]), embeds["image"][::2], atol=1e-6)
        np.testing.assert_allclose(image.run(pixels[1:4]), embeds["image"][1:4], atol=1e-6)

    def test_the_embedder(self, bundle: Path, embeds: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> None:
        with engines.load(bundle, engine="aotinductor") as clip:
            assert clip.engines["text"] == f"aotinductor, torch {torch.__version__} on CPU {cpu_isa()}"
            np.testing.assert_allclose(clip.encode_image(inputs["image"]), embeds["image"], atol=1e-6)
            np.testing.assert_allclose(clip.encode_text(inputs["text"]), embeds["text"], atol=1e-6)
            tensor = clip.encode_image(torch.from_numpy(inputs["image"][:2]))
            assert isinstance(tensor, torch.Tensor)

    def test_many_threads(
        self, image: AOTInductorTower, inputs: dict[str, np.ndarray], embeds: dict[str, np.ndarray]
    ) -> None:
        wrong: list[str] = []

        def work(first: int) -> None:
            for turn in range(10):
                rows = slice(first, first + 1 + turn % 3)
                if np.abs(image.run(inputs["image"][rows]) - embeds["image"][rows]).max() > 1e-6:
                    wrong.append(f"{first} {turn}")

        threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong

    def test_threads_are_the_process_s(self, bundle: Path, inputs: dict[str, np.ndarray]) -> None:
        before = torch.get_num_threads()
        try:
            tower = opened(bundle, "text", threads=1)
            assert torch.get_num_threads() == 1
            one = tower.run(inputs["text"])
            torch.set_num_threads(2)
            np.testing.assert_allclose(tower.run(inputs["text"]), one, atol=1e-6)
        finally:
            torch.set_num_threads(before)

    def test_close(self, bundle: Path, inputs: dict[str, np.ndarray]) -> None:
        tower = opened(bundle, "text")
        tower.close()
        tower.close()
        with pytest.raises(errors.EngineError, match="the engine was closed: load the bundle again"):
            tower.run(inputs["text"])


class TestWrongInput:
    @pytest.mark.parametrize(
        "change",
        [
            lambda a: a.astype(np.float32),
            lambda a: a.astype(np.int8),
            lambda a: a[:, :-1],
            lambda a: a[..., :1],
            lambda a: a[0],
            lambda a: a[:0],
            lambda a: a[None],
        ],
    )
    def test_images(
        self, image: AOTInductorTower, inputs: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        with pytest.raises(errors.InputError, match=r"pixels must be uint8 \(N, 64, 64, 3\), N any number, not "):
            image.run(change(inputs["image"]))

    @pytest.mark.parametrize(
        "change",
        [lambda a: a.astype(np.int64), lambda a: a[:, :1], lambda a: np.pad(a, ((0, 0), (0, 1))), lambda a: a[:, 0]],
    )
    def test_texts(
        self, text: AOTInductorTower, inputs: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
    ) -> None:
        with pytest.raises(errors.InputError, match=r"ids must be int32 \(N, L\), N any number, L 2 to 77, not "):
            text.run(change(inputs["text"]))

    def test_ids_outside_the_vocabulary_do_not_reach_the_package(
        self, bundle: Path, inputs: dict[str, np.ndarray]
    ) -> None:
        """It would end the process."""
        ids = inputs["text"].copy()
        with engines.load(bundle, engine="aotinductor", towers=["text"]) as clip:
            for wrong in (-1, 49408, 1_000_000):
                ids[0, 1] = wrong
                with pytest.raises(errors.InputError, match=f"token id {wrong} is outside the vocabulary"):
                    clip.encode_text(ids)

    def test_options(self, bundle: Path) -> None:
        with pytest.raises(errors.InputError, match="threads is 0: pass a whole number, 1 or more"):
            opened(bundle, "text", threads=0)
        with pytest.raises(errors.InputError, match="has no option 'arena': it takes threads, parallel, device_id"):
            engines.load(bundle, engine="aotinductor", arena=1)

    def test_an_array_on_a_gpu(self, image: AOTInductorTower) -> None:
        with pytest.raises(errors.InputError, match="this package runs on the CPU: pass a numpy array"):
            image.run_on_device(None)


def test_threads_and_imports_of_a_process(demo_bundle: Path, bundle: Path) -> None:
    """PyTorch is imported for this engine only, and the number of threads holds in every thread.

    OpenMP keeps the number for each thread that calls it, and starts a team at the first parallel loop.
    """
    code = """
import os, sys, threading
import numpy as np
import engines
engines.load(sys.argv[2]).close()
engines.load(sys.argv[1]).close()
engines.load(sys.argv[1], engine="onnxruntime").close()
assert "torch" not in sys.modules
clip = engines.load(sys.argv[1], engine="aotinductor", threads=1)
assert "torch" in sys.modules
pixels = np.zeros((8, *clip.manifest.preprocess.size, 3), np.uint8)
def threads(): return set(os.listdir("/proc/self/task"))
before, own = threads(), []
def work():
    clip.encode_image(pixels)
    own.append(str(threading.get_native_id()))
worker = threading.Thread(target=work)
worker.start()
worker.join()
print(sorted(threads() - before - set(own)))  # a thread that has ended may be listed for a moment
"""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    ran = subprocess.run(
        [sys.executable, "-c", code, str(bundle), str(demo_bundle)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert ran.stdout.strip() == "[]", ran.stderr


class TestFiles:
    def test_missing(self, copy: Path) -> None:
        manifest = read_manifest(copy)
        lost = engine_of(manifest, "image")
        (copy / lost.file).unlink()
        with pytest.raises(errors.BundleError, match=r"image-cpu\.pt2 is missing in bundle"):
            open_tower(copy, lost, manifest.towers["image"], "fp32")
        with pytest.raises(errors.EngineUnavailableError, match=r"image-cpu\.pt2 is missing"):
            engines.load(copy, engine="aotinductor")
        with engines.load(copy) as clip:
            assert clip.engines["image"].startswith("onnxruntime")

    def test_changed(self, copy: Path) -> None:
        manifest = read_manifest(copy)
        file = copy / engine_of(manifest, "text").file
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        with pytest.raises(errors.BundleError, match="was changed: its sha256 is not the manifest's"):
            engines.load(copy, engine="aotinductor")

    @pytest.mark.parametrize("content", [b"", b"nothing", "half"])
    def test_damaged_with_a_manifest_that_agrees(self, copy: Path, content: bytes | str) -> None:
        manifest = read_manifest(copy)
        engine = engine_of(manifest, "text")
        file = copy / engine.file
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if isinstance(content, str) else content)
        (copy / MANIFEST_NAME).unlink()
        with pytest.raises(
            errors.EngineError, match=rf"PyTorch {torch.__version__.replace('+', '.')} cannot load .*text-cpu"
        ):
            open_tower(copy, engine, manifest.towers["text"], "fp32")


class TestWhyNot:
    ENGINE = Engine(
        kind="aotinductor",
        tower="image",
        file="engines/aotinductor/image-cpu.pt2",
        target=Target(library="torch", version=str(torch.__version__), device="cpu", isa="avx2"),
    )

    def other(self, **target: str) -> Engine:
        return msgspec.structs.replace(self.ENGINE, target=msgspec.structs.replace(self.ENGINE.target, **target))

    def test_it_runs(self) -> None:
        assert why_not(self.ENGINE, "fp32", "auto") is None
        assert why_not(self.ENGINE, "fp32", "cpu") is None
        patch = torch.__version__.split("+")[0].rpartition(".")[0] + ".99+cpu"
        assert why_not(self.other(version=patch), "fp32", "auto") is None

    def test_the_device(self) -> None:
        assert why_not(self.ENGINE, "fp32", "cuda") == "built for the CPU, and the device is a GPU"
        gpu = self.other(device="sm90")
        assert why_not(gpu, "fp32", "cpu") == "it runs on NVIDIA GPUs, and the device is the CPU"

    @no_gpu
    def test_no_gpu(self) -> None:
        assert why_not(self.other(device="sm90"), "fp32", "auto") == gpu_missing()

    @pytest.mark.parametrize("version", ["2.10.0+cu126", "3.0.0"])
    def test_another_version(self, version: str) -> None:
        family = ".".join(version.split(".")[:2])
        said = why_not(self.other(version=version), "fp32", "auto")
        assert said is not None
        assert said.startswith(f"built with torch {version}, ")
        assert said.endswith(f"pip install 'torch=={family}.*', or export the model again")

    def test_no_pytorch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch_library, "installed_version", lambda name: None)
        monkeypatch.setitem(sys.modules, "torch", None)  # Python's own way to say that it cannot be found
        said = why_not(self.other(version="2.15.0"), "fp32", "auto")
        assert said == "PyTorch is not installed: pip install 'torch==2.15.*'"

    def test_another_processor(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flags = run_aotinductor._FLAGS["avx2"]
        monkeypatch.setattr(run_aotinductor, "_cpu_flags", lambda: flags)
        assert cpu_isa() == "avx2"
        assert why_not(self.ENGINE, "fp32", "auto") is None
        said = "its code uses avx512 instructions, which this processor lacks: export the model again on this machine"
        assert why_not(self.other(isa="avx512"), "fp32", "auto") == said
        assert why_not(self.other(isa="avx10"), "fp32", "auto") == said.replace("avx512", "avx10")
        monkeypatch.setattr(run_aotinductor, "_cpu_flags", lambda: flags - {"fma"})
        assert cpu_isa() is None
        assert "avx2 instructions" in str(why_not(self.ENGINE, "fp32", "auto"))

    def test_a_bundle_from_elsewhere(self, copy: Path) -> None:
        manifest = read_manifest(copy)
        foreign = tuple(
            msgspec.structs.replace(e, target=msgspec.structs.replace(e.target, version="1.0.0"))
            if e.kind == "aotinductor"
            else e
            for e in manifest.engines
        )
        manifest = msgspec.structs.replace(manifest, engines=foreign)
        (copy / MANIFEST_NAME).write_bytes(manifest_bytes(manifest))
        with pytest.raises(errors.EngineUnavailableError, match=r"aotinductor cpu: built with torch 1\.0\.0, "):
            engines.load(copy, engine="aotinductor")
        assert [item.why_not is None for item in candidates(copy, manifest, "image")] == [
            kind != "aotinductor" for kind in KINDS if kind in ("aotinductor", "onnxruntime")
        ]


def test_what_was_built_for_a_gpu_comes_before_what_may_run_on_the_cpu(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    assert [item.engine.kind for item in candidates(bundle, manifest, "image")] == ["onnxruntime", "aotinductor"]
    cpu = engine_of(manifest, "image")
    gpu = msgspec.structs.replace(cpu, target=msgspec.structs.replace(cpu.target, device="sm90"))
    both = msgspec.structs.replace(manifest, engines=(*manifest.engines, gpu))
    found = [(item.engine.kind, item.engine.target.device) for item in candidates(bundle, both, "image")]
    assert found == [("aotinductor", "sm90"), ("onnxruntime", None), ("aotinductor", "cpu")]


class TestCommandLine:
    def test_embed_and_classify(
        self, bundle: Path, tmp_path: Path, inputs: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
    ) -> None:
        from PIL import Image

        for i, pixels in enumerate(inputs["image"][:3]):
            Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        out = tmp_path / "out.npy"
        assert main(["embed", str(bundle), str(tmp_path), "--out", str(out), "--engine", "aotinductor"]) == 0
        assert np.load(out).shape == (3, 64)
        flags = ("--labels", "a red circle,a blue square", "--engine", "aotinductor")
        assert main(["classify", str(bundle), str(tmp_path), *flags]) == 0
        assert "a red circle" in capsys.readouterr().out
