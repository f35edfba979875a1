"""Every command of GPU.md runs, in a copy of the tree without its repository, on this CPU at tiny shapes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from benchmarks import gather
from benchmarks.records import rows
from benchmarks.suites.definitions import SUITES
from benchmarks.suites.step import CHOICES

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = re.findall(r"```sh\n(.*?)```", (ROOT / "benchmarks" / "GPU.md").read_text(encoding="utf-8"), re.DOTALL)
COMMIT = "0123456789+"
NOT_CARRIED = shutil.ignore_patterns(
    ".git", ".venv*", "__pycache__", ".*_cache", "gpu-kit", "gpu-results", "*.egg-info", "build", "build-*"
)
# What each part leaves: the file, and a column with a value of its rows.
LEFT = {
    "ceilings": ("ceiling.csv", "model", "copy"),
    "facts": ("gemm.csv", "model", "linear, bias"),
    "packages": ("package.csv", "engine", "aotinductor triton"),
    "tests": ("tests.csv", "figure", "skipped"),
    "attention": ("kernel.csv", "model", "attention"),
    "mlp": ("kernel.csv", "model", "mlp"),
    "norm": ("kernel.csv", "model", "add_layer_norm"),
    "choices": ("kernel.csv", "model", "packed_attention"),
    "tuned": ("package.csv", "engine", "aotinductor auto tuned"),
    "models": ("throughput.csv", "model", "ViT-S-32"),
    "engines": ("throughput.csv", "engine", "onnxruntime"),
}


def parts_of(command: str) -> list[str]:
    found = re.search(r"--parts (\S+)", command)
    assert found is not None
    return found[1].split(",")


def minutes_of(command: str) -> float:
    found = re.search(r"--minutes (\S+)", command)
    assert found is not None
    return float(found[1])


def test_the_commands_cover_the_suite() -> None:
    assert len(COMMANDS) == 4
    named = [part for command in COMMANDS for part in parts_of(command)]
    assert list(dict.fromkeys(named)) == list(SUITES["gpu"].parts)
    assert all(minutes_of(command) < 9 and len(command) < 2000 for command in COMMANDS)


@pytest.fixture(scope="module")
def carried(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as it arrives there, with a kit of one wheel."""
    tree = tmp_path_factory.mktemp("carried") / "tree"
    shutil.copytree(ROOT, tree, ignore=NOT_CARRIED)
    kit = tree / "gpu-kit"
    kit.mkdir()
    (kit / "commit.txt").write_text(COMMIT + "\n")
    with zipfile.ZipFile(kit / "probe-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("kit_probe.py", "FOUND = True\n")
    return tree


def run(command: str, carried: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A command in the carried tree, on this CPU; its rows go to the folder ``out``."""
    command = command.replace("suite gpu", "suite gpu --stand-in").replace("/tmp/kit", str(tmp_path / "kit"))
    assert command.count("--stand-in") == 1
    programs, home = tmp_path / "bin", tmp_path / "home"
    programs.mkdir()
    home.mkdir()
    # Code that says nothing of speed need not be fast, and is compiled in half the time.
    for name, words in {"python3": f'{sys.executable} "$@"', "g++": f'{shutil.which("g++")} "$@" -O0'}.items():
        (programs / name).write_text(f"#!/bin/sh\nexec {words}\n")
        (programs / name).chmod(0o755)
    variables = {
        "OUT": str(tmp_path / "out"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "HOME": str(home),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        ["sh", "-c", command], cwd=carried, env=os.environ | variables, capture_output=True, text=True, check=False
    )


# The first two have every kind of step but sweeps, which test_suite.py runs; the third's steps are theirs with other options.
@pytest.mark.parametrize(
    "number", [pytest.param(n, marks=pytest.mark.long if n < 2 else pytest.mark.slow) for n in range(len(COMMANDS))]
)
def test_a_command_runs(number: int, carried: Path, tmp_path: Path) -> None:
    command, out = COMMANDS[number], tmp_path / "out"
    start = time.monotonic()
    ran = run(command, carried, tmp_path)
    said = ran.stdout + ran.stderr
    assert ran.returncode == 0, said
    assert "Traceback" not in said
    assert "error" not in ran.stderr
    assert "goes on from there" not in said, said
    assert time.monotonic() - start < 60 * minutes_of(command)
    assert (tmp_path / "kit" / "kit_probe.py").exists()
    for part in parts_of(command):
        file, column, value = LEFT[part]
        found = [row for row in rows.read(out / file) if getattr(row, column) == value and row.value is not None]
        assert found, f"part {part} has left no row in {file}: {said}"
        assert {row.commit for row in found} == {COMMIT}
    files = list(out.iterdir())
    assert len(files) <= 8
    assert all(file.is_file() and file.stat().st_size < 16 << 20 for file in files)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+", file.name) for file in files)
    table = (ROOT / "benchmarks" / "GPU.md").read_text(encoding="utf-8")
    assert all(f"`{file.name}`" in table for file in files)
    if {"attention", "choices"} & set(parts_of(command)):
        assert (out / CHOICES).read_bytes() == (carried / "kernels" / "choices.csv").read_bytes()
    results = tmp_path / "results"
    assert gather.main([str(out), "--results", str(results), "--table", str(_table(tmp_path))]) == 0
    (machine,) = results.iterdir()
    assert {row.key for row in rows.read(machine)} == {row.key for row in rows.read(out)}


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_command_without_time_names_its_parts(number: int, carried: Path, tmp_path: Path) -> None:
    command = re.sub(r"--minutes \S+", "--minutes 0", COMMANDS[number])
    ran = run(command, carried, tmp_path)
    assert ran.returncode == 0, ran.stderr
    assert ran.stderr == ""
    parts = re.findall(r"^== (\w+) \(.* 0\.0 minutes left\)$", ran.stdout, re.MULTILINE)
    assert parts == parts_of(command)
    assert ran.stdout.count("no time left") >= len(parts)
    assert (tmp_path / "kit" / "kit_probe.py").exists()


def _table(folder: Path) -> Path:
    return Path(shutil.copy(ROOT / "kernels" / "choices.csv", folder / "table.csv"))
