"""A job that was killed and goes on: what has changed meanwhile is embedded again, and nothing else."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.__main__ import main
from engines.commands import embed_job
from engines.commands.embed_job import EmbedJob, Resumed
from engines.commands.embed_part import Part, save_part
from engines.errors import EngineError, InputError

ROWS = 4


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embed_job, "PART_ROWS", ROWS)


class Reader:
    """Embeds files that begin with a number as (that number, their length); others are skipped. Stops when it is told to."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.read: list[str] = []
        self.stop_after = stop_after

    def __call__(self, files: Sequence[str]) -> tuple[list[int], np.ndarray | None, dict[int, str]]:
        if self.stop_after is not None and len(self.read) >= self.stop_after:
            raise KeyboardInterrupt
        self.read += files
        kept, rows, skipped = [], [], {}
        for i, file in enumerate(files):
            try:
                text = Path(file).read_text()
                rows.append((int(text.strip()), len(text)))
                kept.append(i)
            except (OSError, ValueError) as error:
                skipped[i] = str(error)
        return kept, np.array(rows, np.float32) if rows else None, skipped


def write(path: Path, text: str, time: int) -> None:
    path.write_text(text)
    os.utime(path, ns=(time, time))


def run(files: Sequence[str], out: Path, reader: Reader, identity: str = "demo") -> Resumed:
    job = EmbedJob(files, out, identity, are_files=True)
    resumed = job.open()
    job.run(reader, lambda count: None)
    job.finish()
    return resumed


def result(out: Path) -> tuple[list[list[float]], list[str], list[str]]:
    skipped = out.with_suffix(".skipped.txt")
    names = [line.split("\t")[0] for line in skipped.read_text().splitlines()] if skipped.exists() else []
    return np.load(out).tolist(), out.with_suffix(".items.txt").read_text().splitlines(), names


CHANGES = st.sampled_from(["none", "replaced", "touched", "longer", "broken", "gone", "mended"])


@settings(max_examples=60, deadline=None)
@given(
    at_first=st.lists(st.sampled_from(["good", "broken", "missing"]), min_size=1, max_size=14),
    changes=st.lists(CHANGES, min_size=14, max_size=14),
    stop=st.integers(0, 14),
)
def test_a_resumed_job_gives_what_one_without_a_stop_gives(
    at_first: list[str], changes: list[str], stop: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("job")
    files = [folder / f"{i}.txt" for i in range(len(at_first))]
    for i, (file, state) in enumerate(zip(files, at_first, strict=True)):
        if state != "missing":
            write(file, f"{i:03}" if state == "good" else "abc", 10**18 + i)
    anchor = folder / "anchor"  # so that there is always something to embed
    write(anchor, "7", 10**18)
    names = [*map(str, files), str(anchor)]
    first = Reader(stop_after=stop)
    stopped = False
    try:
        run(names, folder / "x.npy", first)
    except KeyboardInterrupt:
        stopped = True
    finished = len(first.read)
    expected_again = set()
    for i, (file, state, change) in enumerate(zip(files, at_first, changes[: len(files)], strict=True)):
        readable = state == "good"
        if change == "replaced":
            write(file, f"{i + 500:03}", 2 * 10**18)
        elif change == "touched" and file.exists():
            os.utime(file, ns=(3 * 10**18, 3 * 10**18))
        elif change == "longer":
            write(file, f"{i:03}  ", 10**18 + i)
        elif change == "broken":
            write(file, "abcd", 2 * 10**18)
        elif change == "gone":
            file.unlink(missing_ok=True)
        elif change == "mended" and not readable:
            write(file, "123", 10**18 + i)  # size and time say nothing
        changed = change in ("replaced", "longer", "broken") or (change in ("touched", "gone") and state != "missing")
        if changed or not readable:
            expected_again.add(str(file))
    second = Reader()
    resumed = run(names, folder / "x.npy", second)
    if stopped:
        assert set(second.read) == {*names[finished:], *(expected_again & {*names[:finished]})}
        assert len(second.read) == len(set(second.read))
        assert resumed.done + resumed.again == finished
        assert resumed.again == len(expected_again & {*names[:finished]})
    run(names, folder / "y.npy", Reader())
    assert result(folder / "x.npy") == result(folder / "y.npy")


def test_a_file_that_changes_while_it_is_read_is_another_one_later(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    write(file, "1", 10**18)
    others = []
    for i in range(ROWS):
        others.append(tmp_path / f"{i}.txt")
        write(others[-1], "5", 10**18)

    class Late(Reader):
        def __call__(self, files: Sequence[str]) -> tuple[list[int], np.ndarray | None, dict[int, str]]:
            found = super().__call__(files)
            if str(file) in files:
                write(file, "2", 2 * 10**18)
            return found

    names = [str(file), *map(str, others)]
    with pytest.raises(KeyboardInterrupt):
        run(names, tmp_path / "x.npy", Late(stop_after=1))
    second = Reader()
    assert run(names, tmp_path / "x.npy", second) == Resumed(done=ROWS - 1, again=1)
    assert np.load(tmp_path / "x.npy")[0].tolist() == [2, 1]


def interrupted(tmp_path: Path, count: int = 2 * ROWS) -> list[str]:
    for i in range(count):
        write(tmp_path / f"{i}.txt", str(i), 10**18)
    names = [str(tmp_path / f"{i}.txt") for i in range(count)]
    with pytest.raises(KeyboardInterrupt):
        run(names, tmp_path / "x.npy", Reader(stop_after=1))
    return names


@pytest.mark.parametrize("damage", ["cut", "garbage", "empty", "old", "encrypted", "short"])
def test_a_part_that_is_damaged_or_of_an_earlier_version_is_made_again(damage: str, tmp_path: Path) -> None:
    names = interrupted(tmp_path)
    part = next((tmp_path / ".x.npy.parts").glob("part-*.npz"))
    entry = part.read_bytes().index(b"PK\x01\x02") + 8  # its flags in the archive's directory
    encrypted = part.read_bytes()[:entry] + b"\1" + part.read_bytes()[entry + 1 :]
    if damage == "short":
        save_part(part, Part(np.arange(2), np.ones((2, 2), np.float32), {}, np.ones((2, 2), np.int64)))
    elif damage == "old":
        with np.load(part) as found:
            whole = {name: found[name] for name in ("kept", "embeds", "skipped")}
        np.savez(part, **whole)
    else:
        part.write_bytes(
            {"cut": part.read_bytes()[:-300], "garbage": b"garbage", "empty": b"", "encrypted": encrypted}[damage]
        )
    second = Reader()
    assert run(names, tmp_path / "x.npy", second) == Resumed(0, 0)
    assert second.read == names


def test_parts_of_an_earlier_version_are_thrown_away(tmp_path: Path) -> None:
    names = interrupted(tmp_path)
    job = tmp_path / ".x.npy.parts" / "job.json"
    job.write_text(json.dumps(json.loads(job.read_text()) | {"format": 1}))
    assert run(names, tmp_path / "x.npy", Reader()) == Resumed(0, 0)


def test_another_identity_starts_anew(tmp_path: Path) -> None:
    names = interrupted(tmp_path)
    assert run(names, tmp_path / "x.npy", Reader(), identity="other weights") == Resumed(0, 0)


def test_a_part_damaged_while_the_job_runs_is_one_sentence(tmp_path: Path) -> None:
    names = interrupted(tmp_path)
    job = EmbedJob(names, tmp_path / "x.npy", "demo", are_files=True)
    assert job.open() == Resumed(ROWS, 0)
    job.run(Reader(), lambda count: None)
    next((tmp_path / ".x.npy.parts").glob("part-*.npz")).write_bytes(b"PK\x03\x04 garbage")
    with pytest.raises(EngineError, match=r"is damaged .*: delete .* and start again"):
        job.finish()


def test_texts_that_differ_only_in_where_they_end_are_other_jobs(tmp_path: Path) -> None:
    """Nothing but their lengths can tell these apart."""
    first, second = (EmbedJob(texts, tmp_path / "x.npy", "demo").description for texts in (["a\0", "b"], ["a", "\0b"]))
    assert first != second


def test_texts_have_no_files(tmp_path: Path) -> None:
    job = EmbedJob(["a", "b"] * ROWS, tmp_path / "x.npy", "demo")
    job.open()
    job.run(lambda items: (list(range(len(items))), np.ones((len(items), 2), np.float32), {}), lambda count: None)
    again = EmbedJob(["a", "b"] * ROWS, tmp_path / "x.npy", "demo")
    assert again.open() == Resumed(2 * ROWS, 0)
    again.run(lambda items: pytest.fail("all is done"), lambda count: None)
    assert again.finish().rows == 2 * ROWS


def test_nothing_to_embed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none of 1 inputs"):
        run([str(tmp_path / "nowhere")], tmp_path / "x.npy", Reader())


def test_pictures_replaced_between_a_stop_and_the_next_run(
    demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()

    def save(i: int, shade: int) -> None:
        Image.fromarray(np.full((40, 40, 3), shade, np.uint8)).save(folder / f"{i}.bmp")

    for i in range(3 * ROWS):
        save(i, 20 * i)
    (folder / "1.bmp").write_bytes(b"broken")
    original = EmbedJob._save
    saved: list[int] = []

    def stop_later(self: EmbedJob, index: int, part: embed_job.Part) -> None:
        if len(saved) == 2:
            raise KeyboardInterrupt
        saved.append(index)
        original(self, index, part)

    monkeypatch.setattr(EmbedJob, "_save", stop_later)
    command = ["embed", str(demo_bundle), str(folder), "--out", str(tmp_path / "x.npy")]
    assert main(command) == 130
    monkeypatch.setattr(EmbedJob, "_save", original)
    save(0, 255)  # as large as before: only the time of the change is another
    save(1, 130)
    capsys.readouterr()
    assert main(command) == 0
    assert "going on: 6 of 12 are done already; 2 changed since or could not be read" in capsys.readouterr().err
    assert main([*command[:-1], str(tmp_path / "fresh.npy")]) == 0
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), np.load(tmp_path / "fresh.npy"), atol=2e-6)
    assert np.load(tmp_path / "x.npy").shape == (3 * ROWS, 64)
    assert not (tmp_path / "x.skipped.txt").exists()
