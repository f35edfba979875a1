"""Patterns, folders and lists become input shards: names, order, parts of a job array, identities."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.commands.embed_shards import parse_part
from engines.errors import InputError
from engines.shards.input_shards import Sources


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("data/00000.tar", "data/00001.tar", "data/00002.tar", "data/deep/00003.tar", "data/rows.parquet"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def names(*paths: str) -> list[str]:
    return [shard.name for shard in Sources(paths).shards()]


class TestPatterns:
    @pytest.mark.parametrize(
        ("pattern", "expected"),
        [
            ("data/{00000..00002}.tar", ["00000", "00001", "00002"]),
            ("data/{00000..00001}.tar", ["00000", "00001"]),
            ("data/0000[01].tar", ["00000", "00001"]),
            ("data/{00000,00002}.tar", ["00000", "00002"]),
            ("data/*.tar", ["00000", "00001", "00002"]),
            ("data/**/*.tar", ["00000", "00001", "00002", "deep/00003"]),
            ("data/00001.tar", ["00001"]),
            ("*/00001.tar", ["data/00001"]),
            ("data", ["00000", "00001", "00002", "rows"]),
            ("data/", ["00000", "00001", "00002", "rows"]),
            ("data/rows.parquet", ["rows"]),
        ],
    )
    def test_names(self, data: Path, pattern: str, expected: list[str]) -> None:
        assert names(pattern) == expected

    def test_absolute_and_relative_paths_have_the_same_names(self, data: Path) -> None:
        assert names(f"{data}/data/*.tar") == names("data/*.tar") == names("./data/*.tar")

    def test_several_patterns_keep_their_order(self, data: Path) -> None:
        assert names("data/00002.tar", "data/{00000..00001}.tar") == ["00002", "00000", "00001"]

    def test_braces_name_files_that_are_not_there(self, data: Path) -> None:
        """A job whose input is not there yet reports it as a failed shard."""
        assert names("data/{00008..00011}.tar") == ["00008", "00009", "00010", "00011"]

    @pytest.mark.parametrize(
        ("pattern", "expected"), [("x/{8..11}.tar", "8 9 10 11"), ("x/{08..11}.tar", "08 09 10 11")]
    )
    def test_zeros_in_front(self, data: Path, pattern: str, expected: str) -> None:
        assert names(pattern) == expected.split()

    @given(
        first=st.integers(0, 2000),
        count=st.integers(1, 30),
        width=st.integers(1, 6),
        choices=st.lists(st.sampled_from("abc"), unique=True),
    )
    def test_every_number_once(self, first: int, count: int, width: int, choices: list[str]) -> None:
        low, high = f"{first:0{width}d}", f"{first + count - 1:0{width}d}"
        folder = f"{{{','.join(choices)}}}/" if len(choices) > 1 else ""
        found = names(f"memory://bucket/{folder}{{{low}..{high}}}.tar")
        numbers = [
            f"{n:0{len(low) if low.startswith('0') or len(low) == len(high) else 0}d}"
            for n in range(first, first + count)
        ]
        assert found == [f"{choice}/{n}" if folder else n for choice in (choices if folder else [""]) for n in numbers]

    @pytest.mark.parametrize(
        ("paths", "words"),
        [
            (("data/*.tgz",), "data/*.tgz matches no file"),
            (("data/{5..3}.tar",), "runs backwards"),
            (("data/00000.tar", "data/00000.tar"), "is named twice"),
            (("data/00000.tar", "data/*.tar"), "is named twice"),
            (("data/*.tar", "other/00000.tar"), "would both be written to 00000"),
            (("memory://bucket/photos/",), "neither a .tar nor a .parquet"),
        ],
    )
    def test_wrong_ones(self, data: Path, paths: tuple[str, ...], words: str) -> None:
        with pytest.raises(InputError, match=words.replace("*", r"\*").replace(".", r"\.")):
            list(Sources(paths).shards())

    def test_names_stay_inside_the_output(self, data: Path) -> None:
        (data / "data" / ".hidden.tar").write_bytes(b"")
        (data / "data" / "inner").mkdir()
        for name in names("data/inner/../*.tar", "data/.hidden.tar"):
            assert ".." not in name.split("/")
            assert not name.startswith(("/", ".", "_"))


class TestFoldersAndLists:
    def test_a_folder_is_cut_in_the_order_of_the_names(self, tmp_path: Path) -> None:
        for name in ("b/2.jpg", "a/1.jpg", "a.jpg", "c.png", "b/notes.md"):
            (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / name).write_bytes(b"x")
        sources = Sources((str(tmp_path / "photos"),), rows=3)
        shards = list(sources.shards())
        assert [shard.name for shard in shards] == ["photos-00000000", "photos-00000001"]
        files = [os.path.relpath(item, tmp_path / "photos") for shard in shards for item in shard.items]
        assert files == ["a/1.jpg", "a.jpg", "b/2.jpg", "c.png"]
        assert [shard.first for shard in shards] == [0, 3]
        assert sources.count() == 2
        assert dict(sources.left_out) == {".md": 1}

    def test_lines_and_their_numbers(self, tmp_path: Path) -> None:
        file = tmp_path / "captions.txt"
        file.write_text("a\n\nb\nc\n")
        shards = list(Sources(texts=file, rows=3).shards())
        assert [(shard.first, shard.items) for shard in shards] == [(0, ("a", "", "b")), (3, ("c",))]

    def test_a_list_has_no_blank_lines(self, tmp_path: Path) -> None:
        file = tmp_path / "list.txt"
        file.write_text("x.jpg\n\n y.jpg\n")
        assert [shard.items for shard in Sources(listing=file).shards()] == [("x.jpg", " y.jpg")]

    def test_a_pipe_is_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(InputError, match="not a regular file, and it is read more than once"):
            Sources(listing=tmp_path / "pipe")

    @given(rows=st.integers(1, 7), lines=st.integers(1, 40), parts=st.integers(1, 5))
    def test_parts_together_are_the_whole(
        self, tmp_path_factory: pytest.TempPathFactory, rows: int, lines: int, parts: int
    ) -> None:
        file = tmp_path_factory.getbasetemp() / "lines.txt"
        file.write_text("".join(f"{i}\n" for i in range(lines)))
        sources = Sources(texts=file, rows=rows)
        together = [item for i in range(parts) for shard in sources.shards((i, parts)) for item in shard.items]
        assert sorted(together, key=int) == [str(i) for i in range(lines)]
        assert sources.count() == sum(1 for i in range(parts) for _ in sources.shards((i, parts)))


class TestIdentity:
    def test_moved_inputs_are_the_same(self, tmp_path: Path) -> None:
        for place in ("one", "two"):
            (tmp_path / place).mkdir()
            (tmp_path / place / "0.tar").write_bytes(b"abc")
            os.utime(tmp_path / place / "0.tar", (5, 5))
        one, two = (next(Sources((str(tmp_path / place / "0.tar"),)).shards()) for place in ("one", "two"))
        assert one.identity() == two.identity()

    def test_changed_inputs_are_others(self, tmp_path: Path) -> None:
        file = tmp_path / "0.tar"
        file.write_bytes(b"abc")
        shard = next(Sources((str(file),)).shards())
        before = shard.identity()
        assert shard.identity() == before
        os.utime(file, (5, 5))
        assert shard.identity() != before
        file.unlink()
        with pytest.raises(InputError, match="is not there"):
            shard.identity()

    def test_a_picture_that_changes(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"abc")
        shard = next(Sources((str(tmp_path),)).shards())
        before = shard.identity()
        (tmp_path / "a.jpg").write_bytes(b"abcd")
        assert shard.identity() != before


@pytest.mark.parametrize(("text", "part"), [(None, (0, 1)), ("0/1", (0, 1)), ("7/8", (7, 8)), (" 3/10 ", (3, 10))])
def test_part(text: str | None, part: tuple[int, int]) -> None:
    assert parse_part(text) == part


@pytest.mark.parametrize(
    ("text", "words"), [("8/8", "the last one of 8 is 7/8"), ("1", "I/N"), ("a/b", "I/N"), ("0/0", "counted from 0")]
)
def test_wrong_part(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_part(text)


@pytest.mark.parametrize("folder", ["plain", "tars[1]", "data.parquet"])
def test_folders_of_any_name(folder: str, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "A.TAR").write_bytes(b"")
    (tmp_path / folder / "b.parquet").write_bytes(b"")
    shards = list(Sources((str(tmp_path / folder),)).shards())
    assert [(shard.name.rpartition("/")[2], shard.kind) for shard in shards] == [("A", "tar"), ("b", "parquet")]
