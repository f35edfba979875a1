"""Whole jobs on one output folder: at the same time, in parts, again with changed inputs, and with other arguments."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from made_shards import assert_same_embeddings, assert_whole, command, embed, end_of, make_tars, read_out

from engines.bulk import job
from engines.commands import embed_shards
from engines.files.leases import Leases

# Stops before it publishes its first shard, as a machine does that is suspended.
STOPPING = """
import os, signal, sys

replace = os.replace


def stopping(source, target):
    if str(target).endswith("00000.parquet"):
        os.kill(os.getpid(), signal.SIGSTOP)
    replace(source, target)


os.replace = stopping
from engines.__main__ import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def tars(tmp_path: Path) -> dict[str, list[str]]:
    return make_tars(tmp_path / "in", 3, 4, broken=(2, 5))


@pytest.mark.parametrize("layout", ["parquet", pytest.param("npy", marks=pytest.mark.long)])
def test_two_jobs_share_the_work(layout: str, demo_bundle: Path, tmp_path: Path) -> None:
    keys = make_tars(tmp_path / "in", 16, 5, broken=(7,))
    arguments = command(demo_bundle, f"{tmp_path}/in", "--format", layout, "--json", "--out", f"{tmp_path}/out/")
    jobs = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    ends = [end_of(job.communicate()[0]) for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    assert [end["shards"] for end in ends] == [16, 16]
    assert sum(end["made"] for end in ends) == 16
    assert sum(end["rows"] for end in ends) == 80
    assert_whole(tmp_path / "out", keys, broken=(7,))


def test_a_job_that_was_stopped_while_another_took_its_work_over(
    demo_bundle: Path, tmp_path: Path, tars: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [str(tmp_path / "in"), "--out", f"{tmp_path}/out/"]
    with subprocess.Popen([sys.executable, "-c", STOPPING, "embed", str(demo_bundle), *arguments]) as stopped:
        _, status = os.waitpid(stopped.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert [file.name for file in (tmp_path / "out/.job/locks").iterdir()] != []
        monkeypatch.setattr(job, "Leases", functools.partial(Leases, lease_seconds=0.3))
        monkeypatch.setattr(embed_shards, "run_job", functools.partial(job.run_job, wait_seconds=0.1))
        assert embed(demo_bundle, *arguments) == 0
        taken = read_out(tmp_path / "out")
        assert set(taken) == set(tars)
        stopped.send_signal(signal.SIGCONT)
        assert stopped.wait(60) == 0
    assert_same_embeddings(assert_whole(tmp_path / "out", tars, broken=(2, 5)), taken)


def test_parts_of_a_job_make_everything_once(
    demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = make_tars(tmp_path / "in", 7, 2)
    made: list[int] = []
    for part in ("0/3", "1/3", "2/3"):
        assert embed(demo_bundle, tmp_path / "in", "--shard", part, "--json", "--out", f"{tmp_path}/out/") == 0
        made.append(end_of(capsys.readouterr().out)["made"])
    assert made == [3, 2, 2]
    assert_whole(tmp_path / "out", keys)
    assert embed(demo_bundle, tmp_path / "in", "--json", "--out", f"{tmp_path}/out/") == 0
    assert end_of(capsys.readouterr().out)["there"] == 7


@pytest.mark.parametrize("part", ["3/3", "-1/3", "0/0", "1", "a/b", "1/3/5"])
def test_parts_that_are_none(part: str, demo_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert embed(demo_bundle, tmp_path, f"--shard={part}", "--out", f"{tmp_path}/out/") == 1
    assert one_line(capsys).startswith("error: --shard")
    assert not (tmp_path / "out").exists()


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "Traceback" not in error
    return error


def test_jobs_that_would_make_other_rows_are_refused(
    demo_bundle: Path, bundle_copy: Path, tmp_path: Path, tars: dict[str, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [tmp_path / "in", "--out", f"{tmp_path}/out/"]
    assert embed(demo_bundle, *arguments) == 0
    capsys.readouterr()
    others: dict[str, list[str]] = {
        "towers image there, text here": ["--towers", "text"],
        "towers image there, image+text here": ["--towers", "image,text"],
        "dtype float16 there, float32 here": ["--dtype", "float32"],
        "layout parquet there, npy here": ["--format", "npy"],
        "max_pixels None there, 5000 here": ["--max-pixels", "5000"],
    }
    for difference, more in others.items():
        assert embed(demo_bundle, *arguments, *more) == 1
        assert f"holds embeddings of another job ({difference}): pass another --out" in one_line(capsys)
    assert embed(bundle_copy, *arguments) == 0  # the same bundle in another place
    capsys.readouterr()
    manifest = bundle_copy / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    assert embed(bundle_copy, *arguments) == 1
    assert "of another export of demo" in one_line(capsys)
    description = tmp_path / "out/.job/job.json"
    whole = description.read_text()
    for text in ("", "[]", "{", whole.replace('"format": 1', '"format": 2'), '{"format": 1}'):
        description.write_text(text)
        assert embed(demo_bundle, *arguments) == 1
        assert str(description) in one_line(capsys)
    description.unlink()
    assert embed(demo_bundle, *arguments) == 0
    assert_whole(tmp_path / "out", tars, broken=(2, 5))
