"""What is taken along to a machine without a package index, and the commit that rows have where there is no repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from benchmarks.records import csv_file
from benchmarks.suites import gpu_kit

ROOT = Path(__file__).resolve().parents[2]


def make_wheel(folder: Path, name: str, version: str, tag: str) -> None:
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-{tag}.whl", "w") as wheel:
        wheel.writestr(f"{name}.py", "")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels in the place of the package index: those of the constraints, newer ones, and of another Python."""
    folder = tmp_path / "index"
    folder.mkdir()
    for requirement in gpu_kit.requirements((ROOT / "constraints.txt").read_text(encoding="utf-8")):
        name, _, version = requirement.replace("-", "_").partition("==")
        tags = ("cp311-cp311-manylinux_2_17_x86_64", "cp312-cp312-manylinux_2_17_x86_64")
        for tag in tags if name == "msgspec" else ("py3-none-any",):
            make_wheel(folder, name, version or "1.0", tag)
            make_wheel(folder, name, "99.0", tag)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_the_kit_has_the_wheels_and_the_commit(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "old-1-py3-none-any.whl").touch()
    assert gpu_kit.main(["--out", str(kit)]) == 0, capsys.readouterr().err
    names = sorted(path.name for path in kit.glob("*.whl"))
    assert [name.split("-")[0] for name in names] == ["ftfy", "msgspec", "onnx_ir", "open_clip_torch", "wcwidth"]
    assert "cp312" in names[1]
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    for name in (names[0], names[1], names[2], names[3]):
        package, version = name.split("-")[:2]
        assert f"{package}=={version};" in constraints.replace("onnx-ir", "onnx_ir")
    assert (kit / "commit.txt").read_text().strip() == csv_file.commit()
    assert "5 wheels" in capsys.readouterr().out


def test_a_wheel_that_cannot_be_had_is_one_sentence(
    index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for wheel in index.glob("ftfy*"):
        wheel.unlink()
    assert gpu_kit.main(["--out", str(tmp_path / "kit")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: pip cannot fetch the wheels: ")
    assert "ftfy" in said
    assert said.count("\n") == 1
    assert not (tmp_path / "kit" / "commit.txt").exists()


def commit_in(tree: Path) -> str:
    """What `csv_file.commit` says in a copy of the tree."""
    records = tree / "benchmarks" / "records"
    records.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "benchmarks" / "records" / "csv_file.py", records)
    code = "import benchmarks.records.csv_file as file; print(file.commit())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=True)
    return ran.stdout.strip()


def git(folder: Path, *words: str) -> None:
    identity = ("-c", "user.name=x", "-c", "user.email=x@localhost")
    subprocess.run(["git", "-C", str(folder), *identity, *words], check=True, capture_output=True)


def test_the_commit_is_gits_or_the_kits(tmp_path: Path) -> None:
    """A copy of the tree that lies in another project's repository had that one's commit."""
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "another project")
    tree = tmp_path / "copy"
    assert commit_in(tree) == ""
    kit = tree / "gpu-kit" / "commit.txt"
    kit.parent.mkdir()
    kit.write_text("0123456789+\n")
    assert commit_in(tree) == "0123456789+"
    git(tree, "init", "-q")
    assert commit_in(tree) == "0123456789+"  # a repository without a commit
    git(tree, "add", "benchmarks")
    git(tree, "commit", "-q", "-m", "x")
    own = commit_in(tree)
    assert len(own.rstrip("+")) == 10
    assert own != "0123456789+"


def test_make_gpu_without_a_gpu_and_without_an_environment(tmp_path: Path) -> None:
    """One sentence, exit code 1 and no pip, with a Python that has nothing installed."""
    make = shutil.which("make")
    if make is None:
        pytest.skip("make is not installed")
    tree, programs = tmp_path / "tree", tmp_path / "bin"
    shutil.copytree(ROOT / "benchmarks", tree / "benchmarks", ignore=shutil.ignore_patterns("results", "__pycache__"))
    shutil.copytree(ROOT / "engines", tree / "engines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "Makefile", tree)
    programs.mkdir()
    (programs / "sh").symlink_to("/bin/sh")
    (programs / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')  # -S: no installed packages
    (programs / "python3").chmod(0o755)
    for target in ("gpu", "gpu-tests"):
        ran = subprocess.run(
            [make, target], cwd=tree, env={"PATH": str(programs)}, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 2  # make's own code for a recipe that failed
        assert not ran.stdout
        ours, makes = ran.stderr.strip().splitlines()
        assert ours.startswith("error: no NVIDIA GPU answers here")
        assert makes.endswith("Error 1")
