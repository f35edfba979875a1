"""oce-bench: the program that ``python -m benchmarks cpp`` drives, and that command from end to end on few inputs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture

import engines
from benchmarks.cpp_library import command, measurement
from benchmarks.cpp_library.side import Order, Side, commands
from benchmarks.records import rows


@pytest.fixture(scope="module")
def program(cpp_folder: Path) -> Path:
    return cpp_folder / "oce-bench"


def test_it_embeds_as_python_does(program: Path, demo_bundle: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"picture {index}.jpg" for index in range(3)]
    for index, file in enumerate(files):
        picture(index).save(file)
    images, texts = tmp_path / "images of a list.txt", tmp_path / "texts.txt"
    images.write_text("".join(f"{file}\n" for file in files))
    texts.write_text("a red circle\nzwei blaue Quadrate\n")
    with engines.load(demo_bundle) as clip:
        embeds = clip.encode_image(files), clip.encode_text(["a red circle", "zwei blaue Quadrate"])
    with Side(commands(demo_bundle, "onnxruntime", program)["C++"]) as side:
        assert side.engines["image"].startswith("onnxruntime 1.")
        assert side.engines["text"].startswith("onnxruntime 1.")
        for callers in (1, 2):
            answers = side.run(Order("images", callers, images)), side.run(Order("texts", callers, texts))
            assert [answer["items"] for answer in answers] == [3, 2]
            sums = [float(np.abs(part).sum()) for part in embeds]
            assert [answer["sum"] for answer in answers] == pytest.approx(sums, rel=1e-4)
        memory = side.memory()
        assert 0 < memory["resident"] <= memory["peak"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "sounds 1 texts.txt",
            "the line 'sounds 1 texts.txt' is none of: images CALLERS FILE, texts CALLERS FILE, memory",
        ),
        ("texts", "the line 'texts' is none of"),
        ("texts 1", "the line 'texts 1' is none of"),
        ("texts 0 texts.txt", "callers is '0': pass a whole number, 1 or more"),
        ("texts two texts.txt", "callers is 'two': pass a whole number"),
        ("texts 3 texts.txt", "3 callers for 2 items: at most one for each"),
        ("texts 1 nowhere.txt", "cannot read nowhere.txt"),
        ("images 2 texts.txt", "a red circle"),
    ],
)
def test_wrong_lines(program: Path, demo_bundle: Path, tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "texts.txt").write_text("a red circle\na blue square\n")
    ran = subprocess.run(
        [program, demo_bundle], input=f"{line}\n", cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 1
    assert len(ran.stdout.splitlines()) == 1  # it was ready
    assert ran.stderr.startswith("error: ")
    assert message in ran.stderr
    assert ran.stderr.count("\n") == 1


def test_wrong_arguments(program: Path, tmp_path: Path) -> None:
    for words, message in (
        (["a", "b"], "pass one bundle"),
        (["--rounds", "1"], "unknown option"),
        ([str(tmp_path)], "manifest"),
    ):
        ran = subprocess.run([program, *words], input="", capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stdout) == (1, "")
        assert message in ran.stderr
    helped = subprocess.run([program, "--help"], capture_output=True, text=True, check=True).stdout
    assert helped.startswith("usage: oce-bench BUNDLE")


def test_the_command(
    program: Path,
    two_engines_bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No figure decides the test."""
    monkeypatch.setattr(measurement, "_LEAST_SECONDS", 0.0)
    words = ["--bundle", str(two_engines_bundle), "--program", str(program), "--results", str(tmp_path / "cpu")]
    words += ["--images", "2", "--texts", "4", "--rounds", "1", "--passes", "1", "--starts", "1", "--callers", "2"]
    assert command.main(words) == 0, capsys.readouterr().err
    found = rows.read(tmp_path / "cpu")
    ran = {row.engine for row in found if row.value is not None}
    reasons = {row.engine: row.note for row in found if row.value is None}
    assert {"onnxruntime", "onnxruntime C++"} <= ran, reasons
    assert {"openvino C++"} & ({*ran, *reasons})
    assert sum(row.figure == "speedup" for row in found) == len(ran)  # of both towers, for half of the names
