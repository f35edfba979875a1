"""What goes to a terminal: odd file names, other encodings, wide characters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from engines.__main__ import COMMANDS, main
from engines.process.tables import format_table
from engines.process.terminal import columns, fit, say, visible

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
ODD_NAMES = (
    "a\nb.png",
    "tab\there.png",
    f"{ESCAPE}.png",
    "rtl\u202egnp.png",
    "猫の写真.png",
    os.fsdecode(b"caf\xe9.png"),
)


@given(st.text(st.characters(), max_size=40))
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    shown = visible(text)
    assert all(unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") for c in shown)
    assert not set(shown) & set("\u200e\u200f\u202a\u202e\u2066\u2069\ufeff")
    assert visible(shown) == shown
    shown.encode("utf-8")
    assert len(shown.splitlines()) <= 1
    for encoding in ("ascii", "latin-1", "cp932", "utf-8"):
        fit(shown, encoding).encode(encoding)


def test_ordinary_names_stay_what_they_are() -> None:
    for name in ("IMG 1 (2).jpg", "C:\\photos\\x.png", "Ærø–naïve.jpg", "猫.png", "عربي.png", "👨‍👩‍👧.png", "می‌خواهم"):
        assert visible(name) == name
    assert visible("a\nb\t\x1b[0m\u2028\U000e0041") == r"a\nb\t\x1b[0m\u2028\U000e0041"
    assert visible(os.fsdecode(b"caf\xe9")) == r"caf\xe9"


def test_columns() -> None:
    assert [columns(text) for text in ("abc", "猫", "ｗｉｄｅ", "é", "e\u0301", "👨‍👩‍👧", "ｶﾞ")] == [3, 2, 8, 1, 1, 2, 2]


@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12)), min_size=1, max_size=5))
def test_a_table_has_a_line_for_each_row_and_its_columns_are_straight(rows: list[tuple[str, str, str]]) -> None:
    for encoding in ("utf-8", "ascii"):
        lines = format_table(
            ("one", "two", "three"), [(*row[:2], "|" + row[2]) for row in rows], encoding=encoding
        ).split("\n")
        assert len(lines) == len(rows) + 2
        first, second, _ = (len(part) for part in lines[1].split("  "))
        for line in lines[2:]:
            start = next(i for i in range(len(line)) if columns(line[:i]) == first + second + 4 and line[i] == "|")
            assert columns(line[:start]) == first + second + 4


def test_another_encoding_gets_what_it_has() -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    say("0.9 (≥ 0.8) 猫\x1b[2J\nsecond …", stream)
    stream.seek(0)
    assert stream.read() == "0.9 (>= 0.8) \\u732b\\x1b[2J\nsecond ...\n"


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    for i, name in enumerate(ODD_NAMES):
        Image.fromarray(np.full((20, 20, 3), 40 * i, np.uint8)).save(folder / "x.png")
        (folder / "x.png").rename(folder / name)
    (folder / f"broken\n{ESCAPE}.jpg").write_bytes(b"no picture")
    (folder / f"film\n{ESCAPE}.m\x1bv").write_bytes(b"")
    return folder


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_classify(encoding: str, demo_bundle: Path, odd_folder: Path) -> None:
    arguments = [
        "classify",
        str(demo_bundle),
        str(odd_folder),
        "--labels",
        "a red circle,ein Größenvergleich",
        "--top",
        "2",
    ]
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    command = [sys.executable, "-m", "engines", *arguments]
    ran = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.decode(encoding).split("\n")
    assert len(lines) == 2 + 2 * len(ODD_NAMES) + 1
    ends = {columns(line.rpartition("  ")[0]) for line in lines[2:-1]}
    assert len({line.count("%") for line in lines[2:-1]}) == 1
    assert len(ends) == 1  # the last column begins in one place
    for data in (ran.stdout, ran.stderr):
        assert not {0x1B, 0x07, 0x09} & set(data)
    assert r"a\nb.png" in lines[2] + lines[4] + lines[6] + lines[8] + lines[10] + lines[12]
    told = ran.stderr.decode(encoding).splitlines()
    assert [line.partition(":")[0] for line in told] == ["skipped", "left out"]


def test_classify_as_json_has_the_exact_names(
    demo_bundle: Path, odd_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["classify", str(demo_bundle), str(odd_folder), "--labels", "a,b", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert {image["file"] for image in data["images"]} == {str(odd_folder / name) for name in ODD_NAMES}
    assert data["left_out"] == {"without a suffix": 1}


def test_embed_and_errors(
    demo_bundle: Path, odd_folder: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for arguments in (
        ["embed", str(demo_bundle), str(odd_folder), "--out", str(tmp_path / "x.npy")],
        ["embed", str(demo_bundle), f"nowhere\n{ESCAPE}", "--out", str(tmp_path / "x.npy")],
        ["verify", f"nowhere\n{ESCAPE}\udcff"],
    ):
        main(arguments)
        captured = capfdbinary.readouterr()
        assert not {0x1B, 0x07, 0x09} & {*captured.out, *captured.err}
        assert captured.err.count(b"\n") == 1
    listed = (tmp_path / "x.items.txt").read_bytes().split(b"\n")
    assert len(listed) == len(ODD_NAMES) + 1
    assert any(line.endswith(b"caf\xe9.png") for line in listed)
    assert (tmp_path / "x.skipped.txt").read_bytes().count(b"\n") == 1


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_help_where_there_is_only_ascii(command: list[str]) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ran = subprocess.run(
        [sys.executable, "-m", "engines", *command, "--help"], capture_output=True, env=environment, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_verify_where_there_is_only_ascii(demo_bundle: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "engines", "verify", str(demo_bundle)]
    ran = subprocess.run(command, capture_output=True, env=environment, check=False)
    assert ran.returncode == 0, ran.stderr
    assert b"(>= 0.99999)" in ran.stdout
