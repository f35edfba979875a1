"""The runtime of a package that takes packed captions: rows go in as ever, and come out the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from aotinductor_bundle import aotinductor_bundle, packed_bundle

import engines
from engines import errors
from engines.manifest import Engine, Manifest, manifest_bytes, read_manifest
from engines.runtimes.aotinductor import AOTInductorTower, open_tower
from engines.verification.embeddings import read_reference, verify_bundle

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return packed_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def text(bundle: Path) -> Iterator[AOTInductorTower]:
    manifest = read_manifest(bundle)
    tower = open_tower(bundle, engine_of(manifest), manifest.towers["text"], "fp32")
    yield tower
    tower.close()


def engine_of(manifest: Manifest) -> Engine:
    return next(engine for engine in manifest.engines if engine.kind == "aotinductor")


def rows_of(lengths: list[int], width: int) -> np.ndarray:
    """Rows (N, width) with the end of text at these lengths and any lower ids behind it."""
    ids = np.random.default_rng(0).integers(1, 49000, (len(lengths), width)).astype(np.int32)
    for row, length in zip(ids, lengths, strict=True):
        row[length - 1] = 49407
    return ids


def test_manifest(bundle: Path) -> None:
    manifest = read_manifest(bundle)
    engine = engine_of(manifest)
    assert (engine.input_layout, engine.file) == ("packed", "engines/aotinductor/text-packed-cpu.pt2")
    assert manifest.towers["text"].input.shape == ("N", "L")  # of the tower; the layout is the engine's
    assert manifest.kernels.swapped["packed_attention"] == 2
    assert engine.build is not None
    assert (engine.build.fused_attention, engine.build.decomposed_attention) == (2, 0)
    assert all(row.passed and row.engine_ran for row in manifest.parity)


def test_bundles_from_before_the_field_are_padded(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    padded = read_manifest(aotinductor_bundle(tmp_path_factory))
    assert {engine.input_layout for engine in padded.engines} == {"padded"}
    document = msgspec.json.decode(manifest_bytes(padded))
    for engine in document["engines"]:
        engine.pop("input_layout", None)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(document))
    assert {engine.input_layout for engine in read_manifest(tmp_path).engines} == {"padded"}


def test_the_reference_and_verify(bundle: Path, text: AOTInductorTower) -> None:
    reference = read_reference(bundle, read_manifest(bundle))
    np.testing.assert_allclose(text.run(np.asarray(reference.inputs["text"])), reference.embeds["text"], atol=1e-6)
    assert all(row.passed for row in verify_bundle(bundle, engine="aotinductor"))


def test_any_batch_any_length(text: AOTInductorTower, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Equal to the padded package, row by row, whatever follows the end of text."""
    padded_bundle = aotinductor_bundle(tmp_path_factory)
    manifest = read_manifest(padded_bundle)
    engine = next(e for e in manifest.engines if e.kind == "aotinductor" and e.tower == "text")
    padded = open_tower(padded_bundle, engine, manifest.towers["text"], "fp32")
    rng = np.random.default_rng(1)
    for count in (1, 2, 3, 33):
        for width in (2, 16, 77):
            ids = rows_of([int(n) for n in rng.integers(1, width + 1, count)], width)
            np.testing.assert_allclose(text.run(ids), padded.run(ids), atol=1e-6)
    one = rows_of([1], 2)
    np.testing.assert_allclose(text.run(one), padded.run(one), atol=1e-6)
    padded.close()


def test_what_goes_into_the_package(text: AOTInductorTower) -> None:
    ids, starts = text._pack(torch.tensor([[5, 9, 9, 3], [7, 7, 1, 0], [0, 0, 0, 0], [1, 2, 3, 4]], dtype=torch.int32))
    assert ids.tolist() == [5, 9, 7, 0, 1, 2, 3, 4]
    assert starts.tolist() == [0, 2, 3, 4, 8]
    assert ids.dtype == starts.dtype == torch.int32


def test_the_embedder(bundle: Path) -> None:
    reference = read_reference(bundle, read_manifest(bundle))
    with engines.load(bundle, engine="aotinductor") as clip:
        np.testing.assert_allclose(clip.encode_text(reference.inputs["text"]), reference.embeds["text"], atol=1e-6)
        texts = ["a red circle", "a photo of a very large blue square on a green background", "a"]
        many = clip.encode_text(texts * 50)
        np.testing.assert_allclose(many[:3], many[-3:], atol=1e-6)


def test_wrong_input(text: AOTInductorTower) -> None:
    for wrong in (np.zeros((2, 78), np.int32), np.zeros((2, 9), np.int64), np.zeros((0, 9), np.int32)):
        with pytest.raises(errors.InputError, match=r"ids must be int32 \(N, L\), N any number, L 2 to 77, not "):
            text.run(wrong)
