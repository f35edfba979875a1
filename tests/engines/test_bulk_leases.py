"""Leases: who has one, who may take it over, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from made_shards import assert_whole, embed, end_of, make_tars

from engines.errors import EngineError
from engines.files.leases import Holder, Leases
from engines.files.output_folder import Folder, LocalFolder, output_folder
from engines.process.identity import has_ended, process_name

LOCK = ".job/locks/a.json"


class Clock:
    """Seconds that pass only when the test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "memory":
        pytest.importorskip("fsspec")
    folder = output_folder(str(tmp_path / "out") if request.param == "local" else f"memory://{tmp_path.name}/out")
    yield folder
    folder.tidy()


def lease_of(process: str, beat: int = 0) -> bytes:
    return json.dumps({"holder": f"{process} 0123", "beat": beat}).encode()


def ended_process() -> str:
    code = "from engines.process.identity import process_name; print(process_name())"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_lease_of_a_living_job_is_respected(folder: Folder) -> None:
    clock = Clock()
    one, two = Leases(folder, renew_seconds=0.02), Leases(folder, clock, renew_seconds=1e6)
    assert one.take("a") is None
    for _ in range(4):
        assert two.take("a") == Holder(process_name())
        before = folder.read(LOCK)
        clock.now += 59
        deadline = time.monotonic() + 10
        while folder.read(LOCK) == before and time.monotonic() < deadline:  # until its next sign of life
            time.sleep(0.005)
    assert two.take("b") is None
    one.release("a")
    assert two.take("a") is None
    two.close()
    one.close()
    assert folder.hidden(".job/locks") == set()


def test_a_lease_of_another_machine_is_taken_over_after_its_time(folder: Folder) -> None:
    folder.write(LOCK, lease_of("other-machine-0123.77.5"))
    clock = Clock()
    leases = Leases(folder, clock, renew_seconds=1e6)
    assert leases.take("a") == Holder("other-machine-0123.77.5")
    clock.now = 59.9
    assert leases.take("a") == Holder("other-machine-0123.77.5")
    folder.write(LOCK, lease_of("other-machine-0123.77.5", beat=1))  # it lives
    clock.now = 61
    assert leases.take("a") == Holder("other-machine-0123.77.5")
    clock.now = 120.9
    assert leases.take("a") == Holder("other-machine-0123.77.5")
    clock.now = 121
    assert leases.take("a") is None
    leases.close()
    assert folder.hidden(".job/locks") == set()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"holder": 5}', b"\xff\x00"])
def test_a_damaged_lease_is_taken_over_after_its_time(content: bytes, folder: Folder) -> None:
    folder.write(LOCK, content)
    clock = Clock()
    leases = Leases(folder, clock, renew_seconds=1e6)
    assert leases.take("a") is not None
    clock.now = 60
    assert leases.take("a") is None
    leases.close()


def test_a_lease_of_a_dead_process_of_this_machine_is_free_at_once(folder: Folder) -> None:
    name = ended_process()
    assert has_ended(name)
    for shard in ("a", "b"):
        folder.write(f".job/locks/{shard}.json", lease_of(name))
    leases = Leases(folder, Clock(), renew_seconds=1e6)
    assert leases.take("a") is None
    leases.close()
    assert folder.hidden(".job/locks") == set()  # b's, too, although nobody needed it


def test_a_job_that_comes_back_after_its_lease_was_taken_over_does_not_remove_the_new_one(folder: Folder) -> None:
    stopped = Leases(folder, renew_seconds=1e6)
    assert stopped.take("a") is None
    clock = Clock()
    other = Leases(folder, clock, renew_seconds=1e6)
    assert other.take("a") is not None
    clock.now = 60
    assert other.take("a") is None
    stopped.release("a")
    stopped.close()
    assert folder.read(LOCK) is not None
    other.close()
    assert folder.read(LOCK) is None


def test_a_job_that_stood_still_neither_renews_nor_publishes(folder: Folder) -> None:
    clock = Clock()
    stood, other = Leases(folder, renew_seconds=1e6), Leases(folder, clock, renew_seconds=1e6)
    assert stood.take("a") is None
    assert stood.holds("a")
    other.take("a")
    clock.now = 61
    assert other.take("a") is None
    assert (stood.holds("a"), other.holds("a")) == (False, True)
    waking = threading.Thread(target=stood._renew, args=(0.01,))
    waking.start()
    time.sleep(0.1)
    stood.close()
    waking.join()
    assert other.holds("a")
    other.close()
    assert not other.holds("a")


def test_a_store_that_does_not_answer_loses_no_work(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(folder, renew_seconds=1e6)
    assert leases.take("a") is None

    def failing(name: str) -> bytes | None:
        raise EngineError(f"cannot read {name}")

    with monkeypatch.context() as patch:
        patch.setattr(folder, "read", failing)
        assert leases.holds("a")
    leases.close()


@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_shard_that_another_job_took_over_is_not_published(
    layout: str, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job waits for the other one, which here gives the shard back without having made it, and then makes it."""
    pytest.importorskip("pyarrow")
    keys = make_tars(tmp_path / "in", 2, 4)
    out, lock = tmp_path / "out", tmp_path / "out" / ".job/locks/00000.json"
    published: list[str] = []
    taken_over = threading.Event()
    publish, unfinished = LocalFolder.publish, LocalFolder.unfinished

    def take_over(self: LocalFolder) -> Path:
        # While files of the shard are begun, another job of a living process has taken its lease over.
        if not published and lock.exists():
            lock.write_bytes(lease_of(process_name(), beat=7))
            taken_over.set()
        return unfinished(self)

    def note(self: LocalFolder, file: Path, name: str) -> None:
        published.append(name)
        publish(self, file, name)
        if "00001" in name:
            lock.unlink(missing_ok=True)  # the other job gives it back

    monkeypatch.setattr(LocalFolder, "unfinished", take_over)
    monkeypatch.setattr(LocalFolder, "publish", note)
    assert embed(demo_bundle, tmp_path / "in", "--format", layout, "--out", out, "--json") == 0
    end = end_of(capsys.readouterr().out)
    assert (end["made"], end["failed"]) == (2, 0)
    assert taken_over.is_set()
    shards = ["00001" in name for name in published]
    assert shards == sorted(shards, reverse=True), published
    assert_whole(out, keys)


def test_names_of_processes() -> None:
    me = process_name()
    machine, pid, started = me.rsplit(".", 2)
    assert (pid, has_ended(me)) == (str(os.getpid()), False)
    assert has_ended(f"{machine}.{pid}.{int(started) + 1}")  # the number was used again
    assert not has_ended(f"another{machine}.{pid}.{int(started) + 1}")
    for text in ("", "unknown", "a.b", f"{machine}.x.{started}", f"{machine}.{pid}.x", f"{machine}..", "..", "a b.1.2"):
        assert not has_ended(text)


@pytest.mark.parametrize("refusal", [PermissionError, FileNotFoundError])
def test_living_processes_of_other_users_that_proc_hides(
    refusal: type[OSError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the options hidepid=1 and hidepid=2 of /proc; to mount it so needs rights that tests do not have."""
    name, read_text = process_name(), Path.read_text
    ended = ended_process()

    def hidden(path: Path, *arguments: Any, **options: Any) -> str:
        if path.match("/proc/[0-9]*/stat"):
            raise refusal
        return read_text(path, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", hidden)
    assert not has_ended(name)
    assert has_ended(ended) == (refusal is FileNotFoundError)


def test_a_stopped_process_and_one_that_nobody_waits_for() -> None:
    code = "from engines.process.identity import process_name; print(process_name(), flush=True); import time; time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        process.send_signal(signal.SIGSTOP)
        assert not has_ended(name)
        process.kill()
        deadline = time.monotonic() + 10
        while not has_ended(name) and time.monotonic() < deadline:  # it is a zombie until `wait`
            time.sleep(0.01)
        assert has_ended(name)


def test_shards_in_folders_have_leases_of_their_own(folder: Folder) -> None:
    leases, other = Leases(folder), Leases(folder)
    for shard in ("a/b", "a%2Fb", "a_b"):
        assert leases.take(shard) is None
        assert other.take(shard) is not None
    assert len(folder.hidden(".job/locks")) == 3
    leases.close()
    other.close()
    assert folder.hidden(".job/locks") == set()
