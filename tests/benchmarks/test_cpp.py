"""``benchmarks cpp``, with the Python side in the place of the C++ program too: tests/cpp/test_cpp_bench.py runs that program."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture

import engines
from benchmarks.cpp_library import command, measurement
from benchmarks.cpp_library.side import Order, Side, SideError, commands
from benchmarks.records import rows
from benchmarks.records.languages import engine_label, split_label
from benchmarks.reporting import charts, readme_tables

TINY = ["--images", "4", "--texts", "6", "--rounds", "1", "--passes", "2", "--starts", "1", "--callers", "1", "2"]


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program that takes oce-bench's arguments, and is the Python side."""
    path = tmp_path / "stand-in"
    code = "import sys; from benchmarks.cpp_library.python_side import main; main(sys.argv[1:])"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{code}" "$1" "$3"\n')
    path.chmod(0o755)
    return path


def test_rows_table_and_plot(
    demo_bundle: Path,
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The demo bundle of the tests has no engine for OpenVINO: that is a row, and no failure."""
    monkeypatch.setattr(measurement, "_LEAST_SECONDS", 0.0)
    results = tmp_path / "results"
    words = ["--bundle", str(demo_bundle), "--program", str(stand_in), "--results", str(results / "cpu"), *TINY]
    assert command.main(words) == 0, capsys.readouterr().err
    found = rows.read(results / "cpu" / "cpp.csv")
    assert {row.what for row in found} == {"cpp"}
    rated = {(row.tower, row.engine, row.batch, row.shape) for row in found if row.figure == "per_second" and row.value}
    assert len(rated) == 8
    assert ("image", "onnxruntime C++", 2, "files, 2 callers") in rated
    assert ("text", "onnxruntime", 6, "captions, 1 caller") in rated
    assert all(len(row.by_pass) == 2 for row in found if row.figure in ("per_second", "speedup") and row.value)
    assert sum(row.figure == "speedup" for row in found) == 4
    memory = [row for row in found if row.figure in ("host_memory", "peak_host_memory")]
    assert len(memory) == 4
    assert all(20 < (row.value or 0) < 2000 for row in memory)
    missing = [row for row in found if row.value is None]
    assert [(row.engine, row.status) for row in missing] == [("openvino C++", "missing")]
    assert missing[0].note.startswith("Python: ")
    table = readme_tables.cpp_table(results)
    assert "| demo | onnxruntime | files | 2 |" in table
    assert "| demo | onnxruntime | start to first text, s |" in table
    assert "Not measured: openvino C++ fp32 (missing: Python: " in table
    panels = charts.cpp_panels(found)
    assert [panel.title for panel in panels] == ["demo, image", "demo, text"]
    assert [panel.x_ticks for panel in panels] == [[1, 2]] * 2
    assert [series.engine for series in panels[0].series] == ["onnxruntime", "onnxruntime C++"]


def test_nothing_measured_yet(tmp_path: Path) -> None:
    assert readme_tables.cpp_table(tmp_path) == readme_tables.NO_CPP


def test_the_python_side(demo_bundle: Path, tmp_path: Path) -> None:
    """It gives what `engines` gives, however many threads call."""
    files = [tmp_path / f"picture {index}.jpg" for index in range(3)]
    for index, file in enumerate(files):
        picture(index).save(file)
    images, texts = tmp_path / "images of a list.txt", tmp_path / "texts.txt"
    images.write_text("".join(f"{file}\n" for file in files))
    texts.write_text("a red circle\nzwei blaue Quadrate, ä\u2028ö\n", encoding="utf-8")
    with engines.load(demo_bundle) as clip:
        sums = [
            np.abs(clip.encode_image(files)).sum(),
            np.abs(clip.encode_text(["a red circle", "zwei blaue Quadrate, ä\u2028ö"])).sum(),
        ]
    with Side(commands(demo_bundle, "onnxruntime", tmp_path)["Python"]) as side:
        assert "onnxruntime" in side.engines["image"]
        for callers in (1, 2):
            answers = [side.run(Order("images", callers, images)), side.run(Order("texts", callers, texts))]
            assert [answer["items"] for answer in answers] == [3, 2]
            assert [answer["sum"] for answer in answers] == pytest.approx(sums, rel=1e-5)
            assert all(answer["seconds"] > 0 for answer in answers)
        memory = side.memory()
        assert 0 < memory["resident"] <= memory["peak"]
        side.rest()
        images.write_text("none.jpg\n")
        with pytest.raises(SideError, match=r"none\.jpg"):
            side.run(Order("images", 1, images))
        with pytest.raises(SideError):  # it has ended
            side.run(Order("texts", 1, texts))


def test_different_embeddings_are_no_measurement(demo_bundle: Path, stand_in: Path, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("a red circle\n")
    both = commands(demo_bundle, "onnxruntime", stand_in)
    wrong = stand_in.with_name("wrong")
    wrong.write_text(
        '#!/bin/sh\necho \'{"image": ""}\'\nwhile read line; do echo \'{"seconds": 1, "items": 1, "sum": 2}\'; done\n'
    )
    wrong.chmod(0o755)
    with pytest.raises(SideError, match="embeddings of texts differ"):
        measurement.measure_pass({**both, "C++": [str(wrong)]}, [Order("texts", 1, file)], 0, 1, {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--program", "nowhere"], "nowhere is not there: build it with `make cpp`, or pass --program"),
        (
            ["--callers", "9"],
            "every caller needs an image and a text: pass more --images and --texts, or fewer --callers",
        ),
        (["--callers", "0"], "every caller needs"),
        (["--bundle", "nowhere"], "nowhere"),
        (["--model", "no such model"], "no such model could not be exported"),
    ],
)
def test_wrong_arguments(
    words: list[str],
    message: str,
    stand_in: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["--program", str(stand_in), "--images", "8", *words]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "benchmarks").exists()


def test_labels() -> None:
    for engine in ("onnxruntime", "openvino"):
        for language in ("Python", "C++"):
            assert split_label(engine_label(engine, language)) == (engine, language)


def test_a_program_that_cannot_be_started(demo_bundle: Path, tmp_path: Path) -> None:
    text = tmp_path / "no-program"
    text.write_text("")
    both = commands(demo_bundle, "onnxruntime", text)
    order = Order("texts", 1, text)
    with pytest.raises(SideError, match=r"C\+\+: .* cannot be started: "):
        measurement.measure_starts({"C++": both["C++"]}, order, order, 1)
