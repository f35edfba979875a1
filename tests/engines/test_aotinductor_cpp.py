"""engines/cpp/embed_aotinductor.cpp: compiled by hand, it gives what the Python runtime gives, without Python in its process."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from aotinductor_bundle import aotinductor_bundle, packed_bundle

import engines
from engines.manifest import read_manifest
from engines.verification.embeddings import read_reference

SOURCE = Path(__file__).parents[2] / "engines" / "cpp" / "embed_aotinductor.cpp"
TORCH = Path(torch.__file__).parent

pytestmark = [pytest.mark.long, pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return aotinductor_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, compiled as engines/cpp/README.md says."""
    binary = tmp_path_factory.mktemp("cpp") / "embed_aotinductor"
    include, lib = TORCH / "include", TORCH / "lib"
    command = ["g++", "-std=c++20", "-O2", "-Wall", "-Wextra", str(SOURCE), "-o", str(binary)]
    command += ["-isystem", str(include), "-isystem", str(include / "torch/csrc/api/include")]
    command += ["-L", str(lib), f"-Wl,-rpath,{lib}", "-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    compiled = subprocess.run(command, capture_output=True, text=True, check=False)
    assert compiled.returncode == 0, compiled.stderr
    assert compiled.stderr == ""
    return binary


def call(program: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(program), *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
    )


def test_the_same_embeddings_as_in_python(program: Path, bundle: Path, tmp_path: Path) -> None:
    manifest = read_manifest(bundle)
    inputs = read_reference(bundle, manifest).inputs
    with engines.load(bundle, engine="aotinductor") as clip:
        expected = {
            "image": clip._runtimes["image"].get().run(inputs["image"]),
            "text": clip._runtimes["text"].get().run(inputs["text"]),
        }
    for tower, rows in inputs.items():
        source, target = tmp_path / f"{tower}.npy", tmp_path / f"{tower}_embeds.npy"
        np.save(source, rows)
        for size in ("1", "7", "1000") if tower == "text" else ("7",):
            ran = call(program, bundle, tower, source, target, size)
            assert ran.returncode == 0, ran.stderr
            got = np.load(target)
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, expected[tower], atol=1e-6)
    np.save(tmp_path / "short.npy", inputs["text"][:, :9])
    assert call(program, bundle, "text", tmp_path / "short.npy", tmp_path / "out.npy").returncode == 0
    assert np.load(tmp_path / "out.npy").shape == expected["text"].shape


def test_packed_captions(program: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path) -> None:
    packed = packed_bundle(tmp_path_factory)
    ids = read_reference(packed, read_manifest(packed)).inputs["text"]
    with engines.load(packed, engine="aotinductor") as clip:
        expected = clip.encode_text(ids)
    source, target = tmp_path / "ids.npy", tmp_path / "embeds.npy"
    np.save(source, ids)
    for size in ("1", "7", "1000"):
        ran = call(program, packed, "text", source, target, size)
        assert ran.returncode == 0, ran.stderr
        np.testing.assert_allclose(np.load(target), expected, atol=1e-6)
    for wrong, said in (
        (np.pad(ids, ((0, 0), (0, 1))), "dim value is too large at 1, captions have up to 77 ids"),
        (ids.astype(np.float32), "unmatched dtype"),
        (ids[0], "ids are not (N, L)"),
    ):
        np.save(source, wrong)
        ran = call(program, packed, "text", source, target)
        assert ran.returncode == 1
        assert said in ran.stderr


def test_no_python_in_the_process(program: Path, bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "ids.npy", read_reference(bundle, read_manifest(bundle)).inputs["text"][:1])
    # The dynamic loader reports every library that is loaded, the package's own among them.
    ran = call(program, bundle, "text", tmp_path / "ids.npy", tmp_path / "out.npy", LD_DEBUG="files")
    assert ran.returncode == 0, ran.stderr[-500:]
    loaded = {line.split("file=")[1].split()[0] for line in ran.stderr.splitlines() if "file=" in line}
    assert any("libtorch_cpu" in name for name in loaded)
    assert any(name.endswith(".wrapper.so") for name in loaded)
    assert not [name for name in loaded if "python" in Path(name).name]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("long", "unmatched dtype"),
        ("wide", "dim value is too large at 1"),
        ("image", "unmatched dtype"),
        ("double", "holds <f8: a tower takes uint8, int32 or float32"),
        ("empty", "holds no row"),
        ("fortran", "is in Fortran order"),
        ("cut", "is cut off"),
        ("text", "is no .npy file"),
    ],
)
def test_wrong_inputs(program: Path, bundle: Path, tmp_path: Path, change: str, expected: str) -> None:
    ids = np.asarray(read_reference(bundle, read_manifest(bundle)).inputs["text"], dtype=np.int32)
    arrays = {
        "long": ids.astype(np.uint8),
        "wide": np.pad(ids, ((0, 0), (0, 1))),
        "image": ids.astype(np.float32),
        "double": ids.astype(np.float64),
        "empty": ids[:0],
        "fortran": np.asfortranarray(ids),
    }
    source, target = tmp_path / "in.npy", tmp_path / "out.npy"
    np.save(source, arrays.get(change, ids))
    if change == "cut":
        source.write_bytes(source.read_bytes()[:-10])
    if change == "text":
        source.write_text("a photo of a cat")
    ran = call(program, bundle, "text", source, target)
    assert ran.returncode == 1
    assert expected in ran.stderr.strip().splitlines()[-1]
    assert ran.stderr.strip().splitlines()[-1].startswith("error: ")
    assert not target.exists()


def test_wrong_arguments(program: Path, bundle: Path, tmp_path: Path) -> None:
    for arguments, expected in (
        ((), "usage: embed_aotinductor BUNDLE image|text INPUT.npy OUTPUT.npy [ROWS] [TARGET]"),
        ((bundle, "sound", "a", "b"), "tower sound is neither image nor text"),
        ((bundle, "text", "a", "b", "0"), "rows are 0: pass 1 or more"),
        ((bundle, "text", "a", "b", "8", "sm80"), "export the model with --engine aotinductor --target sm80"),
        ((tmp_path, "text", "a", "b"), "text-cpu.pt2 is not there"),
        ((bundle, "text", tmp_path / "a", "b"), "cannot read"),
    ):
        ran = call(program, *arguments)
        assert ran.returncode == 1
        assert expected in ran.stderr
