"""Jobs in processes of their own: an answer, a failure with its words, and an end when nobody waits any more."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from exporter.child_process import Child, ChildFailedError, run_child

WORKER = """
import os, sys, time
import msgspec
from exporter.child_process import serve

class Job(msgspec.Struct):
    what: str
    place: str

class Done(msgspec.Struct):
    pid: int

def work(job):
    if job.what == "fail":
        print("x" * 200_000)  # more than a pipe holds
        raise ValueError("no such thing")
    if job.what == "wait":
        open(job.place, "w").write(str(os.getpid()))
        time.sleep(600)
    return Done(os.getpid())

sys.exit(serve(Job, work))
"""


class Job(msgspec.Struct):
    what: str
    place: str = ""


class Done(msgspec.Struct):
    pid: int


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "a_worker_of_tests.py").write_text(WORKER, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "a_worker_of_tests"


def test_an_answer(worker: str) -> None:
    assert run_child(worker, Job("answer"), Done, {}).pid != os.getpid()


def test_a_failure_has_all_its_words(worker: str) -> None:
    with pytest.raises(ChildFailedError) as caught:
        run_child(worker, Job("fail"), Done, {})
    assert caught.value.code == 1
    assert caught.value.last_line == "ValueError: no such thing"
    assert len(caught.value.output) > 200_000


def test_two_side_by_side_and_none_outlives_the_context(worker: str, tmp_path: Path) -> None:
    place = tmp_path / "pid"
    with Child(worker, Job("wait", str(place)), Done, {}), Child(worker, Job("answer"), Done, {}) as second:
        assert second.wait().pid > 0
        until = time.monotonic() + 60
        while not (place.exists() and place.read_text()):
            assert time.monotonic() < until
            time.sleep(0.02)
        pid = int(place.read_text())
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
