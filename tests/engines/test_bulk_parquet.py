"""Parquet files with pictures and captions of any type, without the columns, empty, and damaged at any place."""

from __future__ import annotations

import functools
import io
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_shards import BROKEN, assert_whole, embed, end_of, jpeg, read_out

from engines.errors import InputError
from engines.shards.read_parquet import read_parquet
from engines.shards.samples import Columns, ReaderNotes, Sample

BOTH = ("image", "text")
USUAL = Columns()


def read(
    file: Path, table: Any, columns: Columns = USUAL, towers: tuple[str, ...] = BOTH, **options: Any
) -> list[Sample]:
    pq.write_table(table, file, **options)
    return list(read_parquet(str(file), ReaderNotes(), columns, towers))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of the parquet file that a test writes."""
    return tmp_path / "x.parquet"


PICTURES: dict[str, Any] = {
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
    "binary_view": pa.binary_view(),
    "struct": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
    "large_struct": pa.struct({"path": pa.large_string(), "bytes": pa.large_binary()}),
}
TEXTS: dict[str, Any] = {
    "string": pa.string(),
    "large_string": pa.large_string(),
    "string_view": pa.string_view(),
    "dictionary": pa.dictionary(pa.int32(), pa.string()),
    "binary": pa.binary(),
    "large_binary": pa.large_binary(),
}


@pytest.mark.parametrize("pictures", PICTURES)
@pytest.mark.parametrize("texts", TEXTS)
def test_types_of_columns(pictures: str, texts: str, file: Path) -> None:
    images: list[Any] = [jpeg(0), None, jpeg(2)]
    if "struct" in pictures:
        images = [{"bytes": jpeg(0), "path": None}, None, {"bytes": jpeg(2), "path": "no/such.jpg"}]
    captions = ["ein Fuß", None, "noir 黒"]
    plain = pa.array(captions, pa.string())
    caption = plain.dictionary_encode() if texts == "dictionary" else plain.cast(TEXTS[texts])
    columns = {"image": pa.array(images, PICTURES[pictures]), "caption": caption, "key": caption, "url": caption}
    samples = read(file, pa.table(columns))
    assert [sample.image for sample in samples] == [jpeg(0), None, jpeg(2)]
    assert [sample.caption for sample in samples] == captions
    assert [sample.url for sample in samples] == captions
    assert [sample.key for sample in samples] == ["ein Fuß", "00000001", "noir 黒"]
    assert all(sample.problem is None for sample in samples)


def test_paths_are_relative_to_the_file(file: Path) -> None:
    struct = pa.array([{"bytes": None, "path": "a.jpg"}, {"bytes": b"", "path": "/b.jpg"}], PICTURES["struct"])
    for images in (struct, pa.array(["a.jpg", "/b.jpg"])):
        samples = read(file, pa.table({"image": images}), towers=("image",))
        assert [sample.image for sample in samples] == [str(file.parent / "a.jpg"), "/b.jpg"]


def test_pictures_at_urls(file: Path) -> None:
    places = [
        "file:///data/a%20b.jpg",
        "FILE://localhost/c.jpg",
        "file://[x/d.jpg",
        "https://x/e.jpg",
        "s3://b/f.jpg",
    ]
    samples = read(file, pa.table({"image_path": [*places, "/data/g:h.jpg"]}), towers=("image",))
    assert [sample.image for sample in samples] == ["/data/a b.jpg", "/c.jpg", None, None, None, "/data/g:h.jpg"]
    assert [sample.url for sample in samples] == ["/data/a b.jpg", "/c.jpg", *places[2:], "/data/g:h.jpg"]
    reasons = [sample.problem or "" for sample in samples]
    assert reasons[:2] == ["", ""]
    assert reasons[2] == "file://[x/d.jpg is on another machine, [x: write file:/// and the path here"
    for place, reason in zip(places[3:], reasons[3:5], strict=True):
        assert reason.startswith(f"{place} is a URL, and pictures are not fetched: download them first")


def test_a_relative_path_in_a_remote_file(tmp_path: Path) -> None:
    """It does not name a file in the working directory."""
    fsspec = pytest.importorskip("fsspec")
    with fsspec.open("memory://relative/x.parquet", "wb") as file:
        pq.write_table(pa.table({"image_path": ["a.jpg"]}), file)
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        (sample,) = read_parquet("memory://relative/x.parquet", ReaderNotes(), Columns(), ("image",))
    assert (sample.image, sample.url) == (None, "a.jpg")
    assert sample.problem == "a.jpg is relative to a file that is not on this machine: make tars of the pictures"


def test_nan_is_no_key_and_no_caption(file: Path) -> None:
    """Pandas writes it in columns of numbers and of objects."""
    nothing = pa.array([float("nan"), 2.5, None], pa.float64())
    samples = read(file, pa.table({"image": [jpeg(0)] * 3, "key": nothing, "caption": nothing, "url": nothing}))
    assert [sample.key for sample in samples] == ["00000000", "2.5", "00000002"]
    assert [sample.caption for sample in samples] == [sample.url for sample in samples] == [None, "2.5", None]


@pytest.mark.parametrize(
    ("images", "kind"), [([1, 2], "int"), ([[1], [2]], "list"), ([1.5], "float"), ([{"x": 1}, {"x": 2}], None)]
)
def test_columns_of_other_types(images: list[Any], kind: str | None, file: Path) -> None:
    table = pa.table({"image": images})
    words = "has the fields x, and neither bytes nor path" if kind is None else f"holds {kind} values"
    with pytest.raises(InputError, match=words) as caught:
        read(file, table, towers=("image",))
    assert "damaged" not in str(caught.value)
    assert str(file) in str(caught.value)


def test_names_of_columns(file: Path) -> None:
    table = pa.table({"a": [jpeg(0)], "b": ["words"], "c": ["7"], "caption": ["not this"], "n": [5]})
    samples = read(file, table, Columns("a", "b", "c", "n"))
    assert samples == [Sample("5", "7", "words", jpeg(0))]
    with pytest.raises(InputError, match="has no column 'x', only a, b, c, caption, n: pass another --image-column"):
        read(file, table, Columns(image="x"))
    with pytest.raises(InputError, match=r"has no column of images .* only a, b, c, caption, n: pass --image-column"):
        read(file, table)
    with pytest.raises(InputError, match="pass --caption-column"):
        read(file, pa.table({"image": [jpeg(0)]}))
    assert read(file, pa.table({"text": ["words"]}), towers=("text",)) == [Sample("00000000", None, "words")]


def test_two_columns_of_one_name(file: Path) -> None:
    table = pa.table([[jpeg(0)], ["a"], ["b"]], names=["image", "caption", "caption"])
    with pytest.raises(InputError, match="two columns"):
        read(file, table)


def test_a_caption_that_is_no_utf8_costs_only_itself(file: Path) -> None:
    raw = pa.array([b"caf\xe9", b"tea"], pa.binary())
    damaged = pa.StringArray.from_buffers(2, raw.buffers()[1], raw.buffers()[2])
    samples = read(file, pa.table({"image": [jpeg(0), jpeg(1)], "caption": damaged}))
    assert [sample.caption for sample in samples] == ["caf\ufffd", "tea"]


def test_no_rows(file: Path) -> None:
    assert read(file, pa.table({"image": pa.array([], pa.binary()), "caption": pa.array([], pa.string())})) == []


@functools.cache
def whole() -> bytes:
    file = io.BytesIO()
    columns = {"image": [jpeg(i) for i in range(90)], "caption": [f"caption {i}" for i in range(90)]}
    pq.write_table(pa.table(columns), file, row_group_size=30, data_page_size=2000)
    return file.getvalue()


@settings(max_examples=120, deadline=None)
@given(start=st.floats(0, 0.9999), damage=st.binary(min_size=1, max_size=300), cut=st.booleans())
def test_a_damaged_file_is_read_or_an_error(
    start: float, damage: bytes, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "damaged.parquet"
    data = bytearray(whole())
    place = int(start * len(data))
    data[place:] = damage if cut else damage[: len(data) - place] + data[place + len(damage) :]
    file.write_bytes(bytes(data))
    message = None
    try:
        samples = list(read_parquet(str(file), ReaderNotes(), USUAL, BOTH))
    except InputError as error:
        message = str(error)
    if message is None:
        assert len(samples) == 90
    else:
        assert message.startswith(str(file))
        assert "\n" not in message


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 10, whole()[:-4], whole()[:3000], b"no parquet" * 100])
def test_files_that_are_none(data: bytes, file: Path) -> None:
    file.write_bytes(data)
    with pytest.raises(InputError, match="is no parquet file or is damaged"):
        list(read_parquet(str(file), ReaderNotes(), USUAL, BOTH))


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_job_over_parquet_files(
    layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    captions = [f"caption {i}" for i in range(4)]
    images = [jpeg(0), BROKEN, None, jpeg(3)]
    keys = [f"{i:06d}" for i in range(4)]
    pq.write_table(pa.table({"key": keys, "image": images, "caption": captions}), folder / "a.parquet")
    pq.write_table(pa.table({"key": keys[:0], "image": images[:0], "caption": captions[:0]}), folder / "empty.parquet")
    (folder / "damaged.parquet").write_bytes(whole()[:500] + bytes(2000) + whole()[2500:])
    arguments = [folder, "--format", layout, "--json", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 1
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["failed"], end["rows"], end["errors"]) == (2, 1, 4, 2)
    assert "damaged" in end["problems"][0]["reason"]
    if layout == "parquet":
        assert_whole(tmp_path / "out", {"a": keys, "empty": []}, broken=(1, 2))
    else:
        shards = read_out(tmp_path / "out")
        assert {name: shard.all_keys for name, shard in shards.items()} == {"a": keys, "empty": []}
        assert shards["empty"].embeds.shape[0] == 0


def test_null_captions_and_pictures_with_two_towers(demo_bundle: Path, tmp_path: Path) -> None:
    table = pa.table(
        {
            "key": ["both", "no picture", "no caption", "neither", "empty"],
            "image": [jpeg(0), None, jpeg(2), None, jpeg(4)],
            "caption": ["words", "words", None, None, ""],
        }
    )
    pq.write_table(table, tmp_path / "x.parquet")
    assert embed(demo_bundle, tmp_path / "x.parquet", "--towers", "image,text", "--out", f"{tmp_path}/out/") == 0
    rows = {row["key"]: row for row in pq.read_table(tmp_path / "out/x.parquet").to_pylist()}
    assert list(rows) == table["key"].to_pylist()
    have = {key: (any(row["image_embedding"]), any(row["text_embedding"])) for key, row in rows.items()}
    assert have["both"] == have["empty"] == (True, True)
    assert (have["no picture"], have["no caption"], have["neither"]) == ((False, True), (True, False), (False, False))
    assert [row["error"] is None for row in rows.values()] == [True, False, False, False, True]


def test_another_column_is_another_job(demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pq.write_table(pa.table({"caption": ["a"], "alt": ["b"]}), tmp_path / "x.parquet")
    arguments = [tmp_path / "x.parquet", "--towers", "text", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    assert embed(demo_bundle, *arguments, "--caption-column", "alt") == 1
    assert "columns by their usual names there, caption=alt here" in capsys.readouterr().err
