"""The marks of tables in the pages: `python -m benchmarks tables` fills those of README.md and docs/, and says what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import tables


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with two pages that need no table."""
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / "README.md").write_text("# r\n")
    (tmp_path / "docs" / "a.md").write_text("# a\n")
    return tmp_path


def test_all_pages_are_filled(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = root / "docs" / "a.md"
    page.write_text("# a\n\n<!-- table: gpu -->\nold\n<!-- end -->\n\n<!-- table: zoo -->\n<!-- end -->\n")
    assert tables.main(["--check"]) == 1
    first = capsys.readouterr().err.splitlines()[0]
    assert first == "docs/a.md has a table that is out of date: run `python -m benchmarks tables`"
    assert "old" in page.read_text()
    assert tables.main([]) == 0
    text = page.read_text()
    assert "old" not in text
    assert text.startswith("# a\n\n<!-- table: gpu -->\n")
    assert text.count("<!-- end -->") == 2
    assert "| ViT-B-32 |" in text
    assert tables.main(["--check"]) == 0
    assert (root / "README.md").read_text() == "# r\n"


def test_an_unknown_table_is_one_sentence(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is written then, in no page."""
    readme, page = root / "README.md", root / "docs" / "a.md"
    readme.write_text("<!-- table: gpu -->\nold\n<!-- end -->\n")
    page.write_text("<!-- table: speed of light -->\n<!-- end -->\n")
    for arguments in ([], ["--check"]):
        assert tables.main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith(
            "error: docs/a.md has a mark for a table 'speed of light', which is none of cold_start, zoo, "
        )
        assert error.count("\n") == 1
    assert "old" in readme.read_text()


@pytest.mark.parametrize(
    "text",
    [
        "<!-- table: gpu -->\nno end\n",
        "<!-- table: gpu -->\nno end\n\n<!-- table: zoo -->\n<!-- end -->\n",
        "<!-- table: zoo -->\n<!-- end -->\n\n<!-- table: gpu -->\n",
    ],
)
def test_a_mark_without_an_end(root: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It would take the next table's end for its own, and all text up to there."""
    (root / "README.md").write_text(text)
    assert tables.main([]) == 1
    assert capsys.readouterr().err == "error: README.md has a mark for the table 'gpu' without <!-- end --> after it\n"
    assert (root / "README.md").read_text() == text
