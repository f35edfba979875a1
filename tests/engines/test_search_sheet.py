"""The page of hits: pictures from where the job's input is, texts that try to be HTML, pictures that are missing."""

from __future__ import annotations

import base64
import io
import json
import os
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from embedding_folders import drawing, write_embeddings, write_tar
from PIL import Image

from engines.__main__ import main
from engines.errors import InputError
from engines.search.index import Hit
from engines.search.pictures import SIDE, small_pictures
from engines.search.shards import Row
from engines.search.sheet import Query, write_sheet
from engines.shards.samples import Columns

HOSTILE = "\"><script>alert(1)</script><img src=x onerror=alert(2)>' & \u202e\x00\ud800"


class Page(HTMLParser):
    """The elements of a page, and the text in its tiles."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def decoded(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def row(key: str, kind: str, place: object, url: str | None = None, caption: str | None = None) -> Row:
    return Row(key, url, caption, "00000.parquet", 0, str(place), kind)


def page_of(tmp_path: Path, *rows: Row) -> Page:
    write_sheet(tmp_path / "sheet.html", [Query("text", "query", [Hit(0.5, item) for item in rows])], "about")
    return Page(tmp_path / "sheet.html")


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_the_command(layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From embeddings to pictures: the first tile of a query shows what was searched."""
    out = write_embeddings(tmp_path, demo_bundle, layout)
    sheet = tmp_path / "sheet.html"
    assert main(["search", str(out), "--text", "a red circle", "--top", "5", "--html", str(sheet), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["html"] == str(sheet)
    page = Page(sheet)
    pictures = [decoded(str(attributes["src"])) for attributes in page.all("img")]
    assert len(pictures) == len(page.all("li")) == 5
    red, green, blue = pictures[0].convert("RGB").getpixel((pictures[0].width // 2, pictures[0].height // 2))
    assert red > 200 > 60 > max(green, blue)
    assert page.all("a")[0]["href"] == "https://example.org/0000.png"


def test_texts_that_try_to_be_html(tmp_path: Path) -> None:
    hits = [
        Hit(0.5, row(HOSTILE, "tar", HOSTILE, url, HOSTILE)) for url in (HOSTILE, "javascript:alert(1)", "https:evil")
    ]
    write_sheet(tmp_path / "sheet.html", [Query("text", HOSTILE, hits), Query("image", HOSTILE, hits)], HOSTILE)
    page = Page(tmp_path / "sheet.html")
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "h1", "h2", "ol", "li", "div", "span", "p")
    }  # no script, no image, no link
    assert not {name for _, attributes in page.elements for name in attributes if name.startswith("on")}
    assert "\u202e" not in page.text
    assert page.text.count("<script>alert(1)</script>") >= 8


def test_a_policy_forbids_what_the_page_does_not_need(tmp_path: Path) -> None:
    page = page_of(tmp_path, row("k", "tar", "", "https://example.org/a?b=1&c=2"))
    assert "default-src 'none'; img-src data:" in str([attributes.get("content") for attributes in page.all("meta")])
    assert page.all("a") == [
        {"href": "https://example.org/a?b=1&c=2", "rel": "noopener noreferrer", "target": "_blank"}
    ]


def test_small_and_upright(tmp_path: Path) -> None:
    """A large picture that a camera marked as lying on its side."""
    large = Image.new("RGB", (1600, 800), "blue")
    exif = Image.Exif()
    exif[0x0112] = 6
    large.save(tmp_path / "large.jpg", exif=exif)
    picture = decoded(small_pictures([row(str(tmp_path / "large.jpg"), "files", tmp_path)]).popitem()[1])
    assert picture.size == (SIDE // 2, SIDE)


def test_transparent_and_palette_pictures(tmp_path: Path) -> None:
    Image.new("RGBA", (30, 20), (255, 0, 0, 128)).save(tmp_path / "a.png")
    Image.new("P", (30, 20)).save(tmp_path / "b.png")
    Image.new("I;16", (30, 20)).save(tmp_path / "c.png")
    rows = [row(str(tmp_path / f"{name}.png"), "files", tmp_path) for name in "abc"]
    assert [decoded(uri).size for uri in small_pictures(rows).values()] == [(30, 20)] * 3


def test_members_of_tar_files(tmp_path: Path) -> None:
    write_tar(tmp_path / "data.tar", [("deep.er/a", drawing("red", "circle"), "x"), ("b", b"no picture", "x")])
    rows = [row(key, "tar", tmp_path / "data.tar") for key in ("deep.er/a", "b", "c")]
    found = list(small_pictures(rows).values())
    assert decoded(found[0]).size == (90, 90)
    assert not found[1].startswith("data:")
    assert "has no picture of this key" in found[2]


@pytest.mark.parametrize("with_key", [False, True])
@pytest.mark.parametrize("nested", [False, True])
def test_rows_of_parquet_files(tmp_path: Path, with_key: bool, nested: bool) -> None:
    pictures = [drawing("red", "circle", 40 + i) for i in range(70)]
    cells = [{"bytes": data, "path": None} for data in pictures] if nested else pictures
    columns = {"thumbnail": pa.array([b"x"] * 70), "image": pa.array(cells)}
    if with_key:
        columns["key"] = pa.array([f"key-{i}" for i in range(70)])
    parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
    keys = ["key-3", "key-69"] if with_key else ["00000003", "00000069"]
    found = small_pictures([row(key, "parquet", tmp_path / "data.parquet") for key in keys])
    assert [decoded(uri).width for uri in found.values()] == [43, 109]


@pytest.mark.parametrize("keys", [["70", "71"], ["key-0", "key-1"]])
def test_keys_and_pictures_of_other_columns(tmp_path: Path, keys: list[str]) -> None:
    """The page reads what the job read: the usual names of key columns, and the columns that the command names."""
    pictures = [drawing("red", "circle", 40 + i) for i in range(2)]
    columns = {"id": [70, 71], "name": ["key-0", "key-1"], "jpg": pictures[::-1], "second": pictures}
    parquet.write_table(pa.table(columns), tmp_path / "data.parquet")
    named = Columns(image="second", key="name") if keys[0].startswith("key") else None
    found = small_pictures([row(key, "parquet", tmp_path / "data.parquet") for key in keys], named)
    assert [decoded(uri).width for uri in found.values()] == ([40, 41] if named else [41, 40])


def test_paths_in_a_parquet_file_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "private.png").write_bytes(drawing("red", "circle"))
    parquet.write_table(pa.table({"image_path": ["private.png"]}), tmp_path / "data.parquet")
    page = page_of(tmp_path, row("00000000", "parquet", tmp_path / "data.parquet"))
    assert page.all("img") == []
    assert "are not opened" in page.text


def test_a_tar_that_is_cut_off(tmp_path: Path) -> None:
    """Rows before the cut have their pictures."""
    tar = tmp_path / "data.tar"
    write_tar(tar, [(name, drawing("red", "circle"), "x") for name in "abcdefgh"])
    data = tar.read_bytes()
    tar.write_bytes(data[: data.rindex(b"h.png") + 600])
    found = list(small_pictures([row(key, "tar", tar) for key in "ah"]).values())
    assert decoded(found[0]).size == (90, 90)
    assert "is cut off" in found[1]


def test_file_names_that_are_not_utf_8(tmp_path: Path) -> None:
    file = os.fsencode(tmp_path) + b"/\xff.png"
    with open(file, "wb") as target:
        target.write(drawing("red", "circle"))
    name = os.fsdecode(file).encode("utf-8", "backslashreplace").decode()
    assert decoded(small_pictures([row(name, "files", tmp_path, name)]).popitem()[1]).size == (90, 90)


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "damaged.tar").write_bytes(b"nothing")
    (tmp_path / "empty.png").write_bytes(b"")
    rows = [
        row("a", "tar", tmp_path / "gone.tar"),
        row("b", "tar", tmp_path / "damaged.tar"),
        row("c", "parquet", "s3://bucket/data.parquet"),
        row(str(tmp_path / "gone.png"), "files", tmp_path),
        row(str(tmp_path / "empty.png"), "files", tmp_path),
        row("00000001", "lines", "texts.txt"),
        row("d", "", ""),
    ]
    page = page_of(tmp_path, *rows)
    assert page.all("img") == []
    assert len(page.all("li")) == len(rows)
    for words in (
        "gone.tar is not on",
        "damaged.tar is no tar",
        "s3://bucket/data.parquet is not on",
        "gone.png is not",
    ):
        assert words in page.text
    for words in ("the file is empty", "a line of text", "does not say where"):
        assert words in page.text


def test_a_url_of_a_tar_is_never_opened(tmp_path: Path) -> None:
    """It is a stranger's text: a local path there would put this machine's pictures into a page that is passed on."""
    (tmp_path / "private.png").write_bytes(drawing("red", "circle"))
    write_tar(tmp_path / "data.tar", [("a", b"", "x")])
    page = page_of(tmp_path, row("a", "tar", tmp_path / "data.tar", str(tmp_path / "private.png")))
    assert page.all("img") == []


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pass another --html"):
        write_sheet(tmp_path / "no folder" / "sheet.html", [], "about")
