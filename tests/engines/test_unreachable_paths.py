"""Paths that the system refuses to look at (too long, below a locked folder, a zero byte in them): one sentence, exit code 1."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import engines
from engines import embedder
from engines.__main__ import main
from engines.commands import classify as cli_classify
from engines.commands import embed as cli_embed
from engines.commands import inspect as cli_inspect
from engines.commands import verify as cli_verify
from engines.commands.embed_job import EmbedJob
from engines.errors import BundleError, InputError
from engines.files.file_kinds import mode_of
from engines.files.onnx_inline import inline_weights
from engines.inputs.image_files import find_images
from engines.inputs.tokenizer import TextTokenizer
from engines.manifest import read_manifest
from engines.process.cores import cpu_quota
from engines.runtimes import onnxruntime as run_onnxruntime
from engines.runtimes.choice import open_tower

# Imported here because who may not enter a folder may not import from it, either.
assert all((cli_classify, cli_embed, cli_inspect, cli_verify, embedder, run_onnxruntime))
NOBODY = 65534
NAMES = ["a" * 5000, "a" * 300, "a\0b", "a\ud800b"]
LONG = "a" * 300


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A path below a folder that this user may not enter; root is another user while the test runs."""
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(0)
    root = os.geteuid() == 0
    if root:
        try:
            os.seteuid(NOBODY)
        except PermissionError:
            pytest.skip("this user may not become another one")
    yield folder / "inner"
    if root:
        os.seteuid(0)
    folder.chmod(0o755)


def one_sentence(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(arguments) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("name", NAMES)
def test_bundles(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for call in (engines.load, read_manifest):
        with pytest.raises(BundleError, match=r"^bundle a.* cannot be reached \(.+\)$"):
            call(name)
    assert "cannot be reached" in one_sentence(capsys, "inspect", name)
    assert "cannot be reached" in one_sentence(capsys, "verify", name)


@pytest.mark.parametrize("name", NAMES)
def test_images(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"^a.* cannot be reached \(.+\)$"):
        find_images(Path(name))
    assert "cannot be reached" in one_sentence(capsys, "classify", str(tmp_path), name, "--labels", "a,b")
    assert "cannot be reached" in one_sentence(capsys, "embed", str(tmp_path), name, "--out", str(tmp_path / "x.npy"))


@pytest.mark.parametrize("out", [f"{LONG}.npy", f"{LONG}/x.npy", "a\0b/x.npy", "a\0b.npy"])
def test_outputs(out: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--out .* cannot be reached \(.+\)$"):
        EmbedJob(["a"], tmp_path / out, "demo")


def test_the_bundle_of_embed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    picture, out = str(tmp_path / "a.png"), str(tmp_path / "x.npy")
    assert "bundle a" in one_sentence(capsys, "embed", LONG, picture, "--out", out)


def test_paths_below_a_file_are_not_there(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "x", tmp_path / "nothing"):
        assert mode_of(path, "it", InputError) is None
        with pytest.raises(BundleError, match="not there"):
            read_manifest(path)
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(BundleError, match="cannot be reached"):
        read_manifest(tmp_path / "circle")


def test_below_a_locked_folder(locked: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = r"cannot be reached \(Permission denied\)$"
    with pytest.raises(BundleError, match=where):
        engines.load(locked)
    with pytest.raises(InputError, match=where):
        find_images(locked)
    for out in (locked / "x.npy", locked.with_name("x.npy") / "x.npy"):
        with pytest.raises(InputError, match=r"--out .* (cannot be reached|is not there)"):
            EmbedJob(["a"], out, "demo")
    with pytest.raises(BundleError, match=where):
        TextTokenizer(locked, None)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match="Permission denied"):
        inline_weights(locked, {"x": locked}, "")
    assert "Permission denied" in one_sentence(capsys, "inspect", str(locked))
    assert "Permission denied" in one_sentence(capsys, "classify", "demo", str(locked), "--labels", "a,b")


@pytest.mark.usefixtures("locked")
def test_a_manifest_that_this_user_may_not_read(capsys: pytest.CaptureFixture[str]) -> None:
    """It is in a folder that the user may enter, which the test's own folder is not."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder)
        (bundle / "manifest.json").touch(mode=0)
        (bundle / "a.png").write_bytes(b"")
        said = one_sentence(capsys, "embed", folder, f"{folder}/a.png", "--out", f"{folder}/x.npy")
        assert said == f"error: cannot read {folder}/manifest.json: Permission denied\n"


def test_groups_of_the_system_that_cannot_be_reached(tmp_path: Path) -> None:
    """Their quota is unknown, and that is none."""
    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "groups").mkdir()
    (tmp_path / "proc" / "self" / "cgroup").write_text(f"0::/{LONG}\n")
    (tmp_path / "proc" / "self" / "mountinfo").write_text("1 1 0:1 / /groups rw - cgroup2 cgroup2 rw\n")
    assert cpu_quota(tmp_path) is None


def test_weights_that_vanished(bundle_copy: Path) -> None:
    manifest: Any = read_manifest(bundle_copy)
    engine = next(engine for engine in manifest.engines if engine.kind == "onnxruntime" and engine.tower == "image")
    data = bundle_copy / f"{engine.file}.data"
    data.unlink()
    data.symlink_to("/nowhere/at/all")
    with pytest.raises(BundleError, match=r"cannot read the weights of .*: No such file or directory"):
        open_tower(bundle_copy, engine, manifest.towers["image"], manifest.precision, "cpu")
