"""Packages built for and run on the GPU of this machine: parity, device arrays, the bound of the batch, streams."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import engines
from engines import errors
from engines.device.gpu import find_gpu
from engines.manifest import Range, read_manifest
from engines.verification.embeddings import read_reference
from exporter.options.engine_options import EngineOptions, KernelMode
from exporter.pipeline import export
from exporter.source.loading import load_source

# Exports are within the time of the first test that asks for one. Tests of one bundle go to one process (xdist's loadgroup).
pytestmark = [pytest.mark.gpu, pytest.mark.timeout(400)]
of_bundle = pytest.mark.xdist_group("demo in fp16")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    gpu = find_gpu()
    if gpu is None:
        pytest.skip("there is no GPU")
    options = EngineOptions(targets=("cpu", gpu.target), batches=(Range(min=1, opt=16, max=64),))
    out = tmp_path_factory.mktemp("gpu") / "demo"
    kinds = ("aotinductor", "onnxruntime")
    return export("demo", precision="fp16", engines=kinds, engine_options=options, out=out, parity_samples=16)


@of_bundle
def test_manifest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    gpu = find_gpu()
    assert gpu is not None
    built = [engine for engine in manifest.engines if engine.kind == "aotinductor" and engine.tower == "image"]
    assert [(e.target.device, e.batch.max, e.target.isa is None) for e in built] == [
        (gpu.target, 64, False),
        ("cpu", None, False),
    ]
    row = next(row for row in manifest.parity if row.engine == "aotinductor")
    assert row.engine_ran
    assert row.passed
    assert gpu.name in row.verified_with


@of_bundle
def test_auto_takes_the_gpu_and_device_chooses(bundle: Path) -> None:
    gpu = find_gpu()
    assert gpu is not None
    with engines.load(bundle) as clip:
        assert gpu.name in clip.engines["image"]
    with engines.load(bundle, engine="aotinductor", device="cpu") as clip:
        assert " on CPU " in clip.engines["image"]


@of_bundle
def test_arrays_stay_on_the_gpu(bundle: Path) -> None:
    reference = read_reference(bundle, read_manifest(bundle))
    pixels = np.asarray(reference.inputs["image"], dtype=np.uint8)
    with engines.load(bundle, engine="aotinductor", device="cuda") as clip:
        host = clip.encode_image(pixels)
        on_device = torch.from_numpy(pixels).cuda()
        result = clip.encode_image(on_device)
        assert result.is_cuda
        np.testing.assert_allclose(result.cpu().numpy(), host, atol=1e-5)
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            np.testing.assert_allclose(clip.encode_image(on_device[1:4]).cpu().numpy(), host[1:4], atol=1e-5)
        for rows in (1, 2, 33, 64):
            many = on_device[torch.arange(rows) % len(pixels)]
            np.testing.assert_allclose(
                clip.encode_image(many).cpu().numpy(), host[np.arange(rows) % len(pixels)], atol=1e-5
            )
        with pytest.raises(errors.InputError, match="N 1 to 64"):
            clip.encode_image(on_device[:1].expand(65, -1, -1, -1))


@of_bundle
def test_any_number_of_rows_and_lengths(bundle: Path) -> None:
    reference = read_reference(bundle, read_manifest(bundle))
    with engines.load(bundle, engine="aotinductor", device="cuda") as clip:
        images = np.asarray(reference.inputs["image"], dtype=np.uint8)
        rows = np.arange(150) % len(images)
        cosines = (clip.encode_image(images[rows]) * reference.embeds["image"][rows]).sum(axis=1)
        assert cosines.min() > 0.999
        cosines = (clip.encode_text(reference.inputs["text"]) * reference.embeds["text"]).sum(axis=1)
        assert cosines.min() > 0.999


@pytest.fixture(
    scope="module",
    params=[pytest.param(mode, marks=pytest.mark.xdist_group(f"demo {mode}")) for mode in ("triton", "auto")],
)
def product(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[KernelMode, Path]:
    """What is served: packages of both towers with this project's kernels, all of them or those that were chosen for this card."""
    gpu = find_gpu()
    if gpu is None:
        pytest.skip("there is no GPU")
    kernels: KernelMode = request.param
    options = EngineOptions(targets=(gpu.target,), batches=(Range(min=1, opt=16, max=64),), kernels=kernels)
    out = tmp_path_factory.mktemp(kernels) / "demo"
    kinds = ("aotinductor", "onnxruntime")
    return kernels, export("demo", precision="fp16", engines=kinds, engine_options=options, out=out, parity_samples=16)


def test_packages_with_kernels_pass_the_gate(product: tuple[KernelMode, Path]) -> None:
    kernels, folder = product
    manifest = read_manifest(folder)
    built = {engine.tower: engine for engine in manifest.engines if engine.kind == "aotinductor"}
    assert set(built) == {"image", "text"}
    row = next(row for row in manifest.parity if row.engine == "aotinductor")
    assert row.engine_ran
    assert row.passed
    if kernels == "triton":
        assert built["text"].input_layout == "packed"
        assert set(manifest.kernels.swapped) >= {"attention", "packed_attention", "add_layer_norm", "l2_normalize"}
        for engine in built.values():
            assert engine.build is not None
            assert engine.build.decomposed_attention == 0
            assert engine.build.fused_attention > 0


def test_packages_with_kernels_are_eager(product: tuple[KernelMode, Path]) -> None:
    _, folder = product
    with engines.load(folder, engine="aotinductor", device="cuda") as clip:
        compare_with_eager(clip, least=0.999)


def compare_with_eager(clip: engines.Embedder, least: float) -> None:
    """New pictures and captions of every length, in batches of one, an odd number, and more than a package takes at once."""
    model = load_source("demo", None, with_tokenizer=False).model.eval()
    rng = np.random.default_rng(5)
    for count in (1, 2, 33, 150):
        pixels = rng.integers(0, 256, (count, 64, 64, 3), dtype=np.uint8)
        ids = rng.integers(1, 49000, (count, 77)).astype(np.int32)
        for row, length in zip(ids, rng.integers(2, 78, count), strict=True):
            row[length - 1 :] = 0
            row[length - 1] = 49407  # the end of text
        with torch.inference_mode():
            normalized = (torch.from_numpy(pixels).float() / 255 - 0.5) / 0.25
            images = model.encode_image(normalized.permute(0, 3, 1, 2), normalize=True).numpy()
            texts = model.encode_text(torch.from_numpy(ids).long(), normalize=True).numpy()
        assert (clip.encode_image(pixels) * images).sum(axis=1).min() > least
        assert (clip.encode_text(ids) * texts).sum(axis=1).min() > least
