"""The pages of the documentation: their size, their links, and the paths that they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from documentation import DOCS, LINKING, PAGES, ROOT, anchors, blocks, inline_code, links, name_of

_TOP = ("exporter", "engines", "kernels", "benchmarks", "tests", "docs")
# Paths that begin with the name of a folder of this repository and lie in a bundle.
_IN_BUNDLES = ("engines/<kind>/",)


def test_sizes() -> None:
    assert (ROOT / "README.md").stat().st_size <= 9 * 1024
    for page in DOCS:
        written = re.sub(r"<!-- table: .*?<!-- end -->", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert len(written.encode()) <= 12 * 1024, f"{name_of(page)} is longer than 12 KB: move a part to another page"


@pytest.mark.parametrize("page", LINKING, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name_of(page)} links to {target}, which is not there"
        if anchor:
            assert anchor in anchors(file), f"{name_of(page)} links to {target}: {name_of(file)} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_are_there(page: Path) -> None:
    """Code that names a file or folder of this repository; ``<name>`` and ``*`` stand for any."""
    for code in inline_code(page):
        if not re.fullmatch(rf"({'|'.join(_TOP)})/[\w./<>*+-]*", code) or code in _IN_BUNDLES:
            continue
        pattern = re.sub(r"<\w+>", "*", code).rstrip("/")
        assert any(ROOT.glob(pattern)), f"{name_of(page)} names {code}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_have_a_known_language(page: Path) -> None:
    assert "~~~" not in page.read_text(encoding="utf-8"), (
        "fences are backticks here: what is between others is not tested"
    )
    for block in blocks(page):
        assert block.language in ("sh", "python", "cpp", "js", "text"), (
            f"{block} is a block in {block.language or 'no language'}: say sh, python, cpp or js, whose content is tested, or text"
        )


def test_indexes_list_every_page() -> None:
    for index in (ROOT / "README.md", ROOT / "docs" / "README.md"):
        listed = {(index.parent / target.partition("#")[0]).resolve() for target in links(index)}
        missing = [name_of(page) for page in DOCS if page not in listed and page != ROOT / "docs" / "README.md"]
        assert not missing, f"{name_of(index)} does not link to {', '.join(missing)}"


def test_what_is_tested_here_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links, anchors and blocks of a page, as this test reads them."""
    monkeypatch.setattr("documentation.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "# A `code` heading, twice\n\n    make demo   # a comment\n\n# A `code` heading, twice\n\n- a list\n\n    its text\n\n"
        "[`a.md`](a.md) and [b](b.md#c), ![p](p.png), [w](https://example.org), `[no](link.md)`\n\n```python\nx = 1\n```\n"
    )
    assert links(page) == ["a.md", "b.md#c", "p.png"]
    assert anchors(page) == {"a-code-heading-twice", "a-code-heading-twice-1"}
    assert [(block.language, block.text) for block in blocks(page)] == [
        ("sh", "make demo   # a comment"),
        ("python", "x = 1"),
    ]
