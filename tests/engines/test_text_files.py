"""Text files as editors on every system save them."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.__main__ import main
from engines.errors import InputError
from engines.files.text_files import decode_text, read_lines, split_lines
from engines.inputs.image_files import read_list

LINES = ["ein Hund", "", "一只猫", "page\x0cfeed", "para\u2029graph", "next\x85line", " spaces ", "last"]
SAVED = {
    "utf-8": ("utf-8", b""),
    "utf-8 with mark": ("utf-8", codecs.BOM_UTF8),
    "utf-16 of PowerShell": ("utf-16-le", codecs.BOM_UTF16_LE),
    "utf-16, big end first": ("utf-16-be", codecs.BOM_UTF16_BE),
    "utf-32": ("utf-32-le", codecs.BOM_UTF32_LE),
}


@pytest.mark.parametrize("saved", SAVED)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("closed", [True, False])
def test_every_way_to_save_gives_the_same_lines(saved: str, end: str, closed: bool, tmp_path: Path) -> None:
    encoding, mark = SAVED[saved]
    (tmp_path / "x.txt").write_bytes(mark + (end.join(LINES) + end * closed).encode(encoding))
    assert read_lines(tmp_path / "x.txt") == LINES


@given(st.lists(st.text(st.characters(exclude_characters="\n\r\0\ufeff", exclude_categories=("Cs",)), min_size=1)))
def test_lines_come_back(lines: list[str]) -> None:
    for encoding, mark in SAVED.values():
        assert split_lines(decode_text(mark + "".join(f"{line}\n" for line in lines).encode(encoding), "x")) == lines


def test_files_put_together_have_marks_in_the_middle(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(codecs.BOM_UTF8 + b"a\n" + codecs.BOM_UTF8 + b"b\n" + codecs.BOM_UTF8)
    assert read_lines(tmp_path / "x.txt") == ["a", "b"]


@pytest.mark.parametrize("content", [b"", codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
def test_an_empty_file_has_no_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    assert read_lines(tmp_path / "x.txt") == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            "first\nGröße".encode("latin-1"),
            r"cannot read the list .*x\.txt as UTF-8 text \(line 2: .*\): save it as UTF-8",
        ),
        (codecs.BOM_UTF16_LE + b"a", r"as UTF-16 text .*: save it as UTF-8"),
        ("a\nb".encode("utf-16-le"), r"line 1 has a zero byte.*save it as UTF-8"),
        (b"\x89PNG\r\n\x1a\n", "save it as UTF-8"),
    ],
)
def test_what_is_no_text_is_one_sentence(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_list(tmp_path / "x.txt")


def test_a_folder_and_a_name_that_cannot_be(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nowhere", Path("a\0b")):
        with pytest.raises(InputError, match="cannot read the list"):
            read_list(path)


@pytest.mark.parametrize("saved", SAVED)
def test_lists_texts_and_labels(
    saved: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first line is the one that a mark would damage: a file that is not there, a label that is not the user's."""
    import json

    import numpy as np
    from PIL import Image

    encoding, mark = SAVED[saved]
    picture = tmp_path / "größe.png"
    Image.fromarray(np.full((30, 30, 3), 200, np.uint8)).save(picture)
    file, out = tmp_path / "lines.txt", tmp_path / "x.npy"

    def write(*lines: str) -> None:
        file.write_bytes(mark + "".join(f"{line}\r\n" for line in lines).encode(encoding))

    write(str(picture), str(picture))
    assert main(["embed", str(demo_bundle), "--list", str(file), "--out", str(out)]) == 0
    assert (tmp_path / "x.items.txt").read_text(encoding="utf-8").splitlines() == [str(picture)] * 2
    write("a red circle", "", "two blue squares")
    assert main(["embed", str(demo_bundle), "--texts", str(file), "--out", str(out)]) == 0
    assert (tmp_path / "x.items.txt").read_text(encoding="utf-8").split("\n") == [
        "a red circle",
        "",
        "two blue squares",
        "",
    ]
    write("circle", "square")
    capsys.readouterr()
    assert main(["classify", str(demo_bundle), str(picture), "--labels-file", str(file), "--top", "2", "--json"]) == 0
    labels = json.loads(capsys.readouterr().out)["images"][0]["labels"]
    assert {label["label"] for label in labels} == {"circle", "square"}
