"""The programs oce-embed, oce-classify and oce-inspect, as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from made_pictures import picture


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    (folder / "deep").mkdir()
    for index in range(7):
        picture(index).save(folder / ("deep" if index % 2 else ".") / f"{index}.{'png' if index % 3 else 'jpg'}")
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken\n.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


def ran(cpp_folder: Path, name: str, *words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([cpp_folder / name, *map(str, words)], capture_output=True, text=True, check=False)


def test_embed_is_what_python_writes(
    cpp_folder: Path, two_engines_bundle: Path, pictures: Path, tmp_path: Path
) -> None:
    ours, theirs = tmp_path / "ours.npy", tmp_path / "theirs.npy"
    done = ran(cpp_folder, "oce-embed", two_engines_bundle, pictures, ours, "--engine", "onnxruntime")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("7 of 8 embedded: ")
    assert "1 other file, not among the image suffixes" in done.stderr
    assert "\\x0a.jpg: the image is truncated" in done.stdout
    command = [
        sys.executable,
        "-m",
        "engines",
        "embed",
        two_engines_bundle,
        pictures,
        "--out",
        theirs,
        "--engine",
        "onnxruntime",
    ]
    subprocess.run(command, check=True, capture_output=True)
    assert (np.load(ours) == np.load(theirs)).all()
    assert (tmp_path / "ours.items.txt").read_text() == (tmp_path / "theirs.items.txt").read_text()
    assert len((tmp_path / "ours.skipped.txt").read_text().splitlines()) == 1


def test_embed_texts_and_lists(cpp_folder: Path, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("a red circle\r\n\r\nein grünes Quadrat\r\n", encoding="utf-8-sig")
    done = ran(cpp_folder, "oce-embed", demo_bundle, "--texts", tmp_path / "captions.txt", tmp_path / "texts.npy")
    assert done.returncode == 0, done.stderr
    # Every line is a row, blank ones too, as in Python.
    command = [sys.executable, "-m", "engines", "embed", demo_bundle, "--texts", tmp_path / "captions.txt"]
    subprocess.run([*command, "--out", tmp_path / "python.npy"], check=True, capture_output=True)
    assert (np.load(tmp_path / "texts.npy") == np.load(tmp_path / "python.npy")).all()
    assert np.load(tmp_path / "texts.npy").shape == (3, 64)
    (tmp_path / "list.txt").write_text(f"{pictures / '0.jpg'}\n{pictures / '2.png'}\n")
    done = ran(cpp_folder, "oce-embed", demo_bundle, f"--list={tmp_path / 'list.txt'}", tmp_path / "images.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "images.npy").shape == (2, 64)
    assert not (tmp_path / "images.skipped.txt").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["BUNDLE", "/nothing/there", "out.npy"], "error: /nothing/there is not there"),
        (["BUNDLE", "PICTURES", "out.txt"], "its name must end in .npy"),
        (["BUNDLE", "out.npy"], "(one of the three)"),
        (["/nothing/there", "PICTURES", "out.npy"], "error: bundle /nothing/there is not there"),
        (["BUNDLE", "PICTURES", "/nothing/there/out.npy"], "error: cannot write /nothing/there/out.npy"),
        (["BUNDLE", "PICTURES", "out.npy", "--threads", "0"], "--threads is '0': pass a whole number, 1 or more"),
        (["BUNDLE", "PICTURES", "out.npy", "--speed"], "unknown option --speed"),
    ],
)
def test_mistakes_are_one_line(
    cpp_folder: Path, demo_bundle: Path, pictures: Path, words: list[str], message: str
) -> None:
    places = {"BUNDLE": demo_bundle, "PICTURES": pictures}
    done = ran(cpp_folder, "oce-embed", *(places.get(word, word) for word in words))
    assert done.returncode == 1
    assert message in done.stderr
    errors = [line for line in done.stderr.splitlines() if not line.startswith("left out in ")]
    assert len(errors) == 1


def test_files_that_no_run_may_read_or_write(cpp_folder: Path, demo_bundle: Path, tmp_path: Path) -> None:
    for name, data, message in (
        ("utf16.txt", "a cat".encode("utf-16"), "save it as UTF-8"),
        ("zero.txt", b"a\0b", "it has a zero byte"),
        ("empty.txt", b"", "has no line"),
        ("out.items.txt", b"a cat", "names a file that would be overwritten"),
    ):
        (tmp_path / name).write_bytes(data)
        done = ran(cpp_folder, "oce-embed", demo_bundle, "--texts", tmp_path / name, tmp_path / "out.npy")
        assert done.returncode == 1
        assert message in done.stderr
    (tmp_path / "folder.npy").mkdir()
    done = ran(cpp_folder, "oce-embed", demo_bundle, "--texts", tmp_path / "out.items.txt", tmp_path / "folder.npy")
    assert "it is a folder" in done.stderr


def test_a_label_counts_once(cpp_folder: Path, demo_bundle: Path, pictures: Path) -> None:
    words = ["--labels", "a dog, a dog,a cat", "--top", 5]
    done = ran(cpp_folder, "oce-classify", demo_bundle, pictures / "0.jpg", *words)
    assert len(done.stdout.splitlines()) == 2
    assert "a label counts once: 'a dog'" in done.stderr


def test_full_disk(cpp_folder: Path, demo_bundle: Path, pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "out.npy.partial").symlink_to("/dev/full")
    done = ran(cpp_folder, "oce-embed", demo_bundle, pictures, tmp_path / "out.npy")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr


def test_classify(cpp_folder: Path, demo_bundle: Path, pictures: Path) -> None:
    words = ["--labels", "a red circle, a blue square", "--template", "a picture of {}", "--top", 2]
    done = ran(cpp_folder, "oce-classify", demo_bundle, pictures / "0.jpg", pictures / "2.png", *words)
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert [line[0] for line in lines] == [str(pictures / "0.jpg")] * 2 + [str(pictures / "2.png")] * 2
    assert {line[1] for line in lines[:2]} == {"a red circle", "a blue square"}
    assert abs(sum(float(line[2].rstrip("%")) for line in lines[:2]) - 100) < 0.2


def test_inspect(cpp_folder: Path, demo_bundle: Path) -> None:
    done = ran(cpp_folder, "oce-inspect", demo_bundle)
    assert json.loads(done.stdout)["engines"][0]["runs_here"]
    done = ran(cpp_folder, "oce-inspect", demo_bundle, "--verify")
    assert done.returncode == 0
    assert json.loads(done.stdout)["passed"]


@pytest.mark.parametrize("name", ["oce-embed", "oce-classify", "oce-inspect"])
def test_help(cpp_folder: Path, name: str) -> None:
    done = ran(cpp_folder, name, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: {name} BUNDLE")
