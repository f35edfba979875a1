"""Samples of tars that have several pictures: which one is embedded, and that the others are counted."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from made_shards import embed, end_of, jpeg, member, read_out, tar_bytes

from engines.shards.read_tar import read_tar
from engines.shards.samples import ReaderNotes, Sample


def read(file: Path, *members: tuple[tarfile.TarInfo, bytes]) -> tuple[list[Sample], int]:
    file.write_bytes(tar_bytes(members))
    notes = ReaderNotes()
    return list(read_tar(str(file), notes)), notes.further_pictures


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["0.jpg", "1.jpg", "2.jpg"], 0),
        (["thumb.jpg", "jpg"], 1),
        (["jpg", "thumb.jpg"], 0),
        (["png", "jpg"], 0),
        (["0.jpg", "png", "txt", "jpg"], 1),
        (["jpg"], 0),
    ],
)
def test_a_plain_suffix_goes_first_then_the_order(names: list[str], chosen: int, tmp_path: Path) -> None:
    files = [member(f"a.{name}", jpeg(i)) for i, name in enumerate(names)]
    samples, unused = read(tmp_path / "x.tar", *files, member("b.jpg", jpeg(9)))
    assert [sample.image for sample in samples] == [jpeg(chosen), jpeg(9)]
    assert unused == sum(name != "txt" for name in names) - 1


def test_a_problem_is_that_of_the_chosen_picture(tmp_path: Path) -> None:
    link, plain_link = (member(name, b"", tarfile.SYMTYPE, "c.jpg") for name in ("a.0.jpg", "b.jpg"))
    samples, unused = read(
        tmp_path / "x.tar",
        link,
        member("a.jpg", jpeg(1)),
        member("b.0.jpg", jpeg(2)),
        plain_link,
    )
    assert [(sample.key, sample.image) for sample in samples] == [("a", jpeg(1)), ("b", None)]
    assert samples[0].problem is None
    assert "b.jpg is a link" in (samples[1].problem or "")
    assert unused == 2


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_the_summary_counts_them(
    layout: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [
        *(member(f"a.{i}.jpg", jpeg(i)) for i in range(3)),
        member("a.txt", b"a"),
        member("b.jpg", jpeg(3)),
        member("b.txt", b"b"),
    ]
    for name in ("00000.tar", "00001.tar"):
        (tmp_path / name).write_bytes(tar_bytes(files))
    arguments = [tmp_path / "{00000..00001}.tar", "--format", layout, "--out"]
    assert embed(demo_bundle, *arguments, tmp_path / "out", "--json") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["rows"], end["errors"], end["further_pictures"]) == (4, 0, 4)
    assert [shard.record["further_pictures"] for shard in read_out(tmp_path / "out").values()] == [2, 2]
    assert embed(demo_bundle, *arguments, tmp_path / "other") == 0
    assert "left out: 4 pictures in tars, because a sample is one row" in capsys.readouterr().out
    assert embed(demo_bundle, *arguments, tmp_path / "texts", "--towers", "text", "--json") == 0
    assert end_of(capsys.readouterr().out)["further_pictures"] == 0
