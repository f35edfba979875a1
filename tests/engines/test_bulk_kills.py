"""Jobs that are killed at any moment and started again: each row is in the output exactly once, and nothing is left over."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_shards import assert_same_embeddings, assert_whole, command, embed, make_tars

BROKEN = (3, 17, 18, 40)

# The job dies before its n-th change of a name in a folder: `os.replace`, `os.link` and `os.unlink`.
DYING = """
import os, signal, sys

changes = 0


def dying(function):
    def change(*arguments, **options):
        global changes
        changes += 1
        if changes == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **options)

    return change


for name in ("replace", "link", "unlink"):
    setattr(os, name, dying(getattr(os, name)))
from engines.__main__ import main

sys.exit(main(sys.argv[2:]))
"""


class Killer:
    """Starts jobs on one output folder and kills them at random moments.

    Args:
        folder: where the inputs and the output folders are made.
        bundle: the bundle.
        layout: ``parquet`` or ``npy``.
        seed: of the moments.
    """

    def __init__(self, folder: Path, bundle: Path, layout: str, seed: int) -> None:
        self.keys = make_tars(folder / "in", 24, 4, BROKEN)
        self.out, self.rng, self.kills = folder / "out", random.Random(seed), 0
        self._arguments = (bundle, f"{folder}/in/{{00000..00023}}.tar", "--format", layout, "--out")
        began = time.monotonic()
        subprocess.run(command(*self._arguments, f"{folder}/expected/"), check=True, capture_output=True)
        self.seconds = time.monotonic() - began
        self.expected = assert_whole(folder / "expected", self.keys, BROKEN)

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            command(*self._arguments, f"{self.out}/"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def wait_or_kill(self, job: subprocess.Popen[str]) -> bool:
        """Kill a job at a random moment of its work; False if it had ended before."""
        try:
            job.wait(self.seconds * self.rng.uniform(0.4, 1.2))
        except subprocess.TimeoutExpired:
            job.kill()
        text, _ = job.communicate()
        if job.returncode == -signal.SIGKILL:
            self.kills += 1
            return True
        assert job.returncode == 0, text
        return False

    def until_done(self, most_kills: int) -> None:
        """One job, started again until it ends by itself."""
        shutil.rmtree(self.out, ignore_errors=True)
        end = self.kills + most_kills
        while self.kills < end and self.wait_or_kill(self.start()):
            pass
        self.finish()

    def one_of_two(self, most_kills: int) -> None:
        """Two jobs share a folder; one is killed and started again, the other goes on to its end."""
        shutil.rmtree(self.out, ignore_errors=True)
        end = self.kills + most_kills
        other = self.start()
        while self.kills < end and self.wait_or_kill(self.start()):
            pass
        text, _ = other.communicate()
        assert other.returncode == 0, text
        shards = assert_whole(self.out, self.keys, BROKEN)
        assert_same_embeddings(shards, self.expected)

    def finish(self) -> None:
        job = self.start()
        text, _ = job.communicate()
        assert job.returncode == 0, text
        shards = assert_whole(self.out, self.keys, BROKEN)
        assert_same_embeddings(shards, self.expected)


def test_a_killed_job_goes_on(demo_bundle: Path, tmp_path: Path) -> None:
    killer = Killer(tmp_path, demo_bundle, "npy", seed=1)
    killer.until_done(2)


@pytest.mark.long
def test_one_of_two_jobs_is_killed(demo_bundle: Path, tmp_path: Path) -> None:
    Killer(tmp_path, demo_bundle, "npy", seed=4).one_of_two(2)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_job_that_is_killed_twenty_times_makes_each_row_once(layout: str, demo_bundle: Path, tmp_path: Path) -> None:
    killer = Killer(tmp_path, demo_bundle, layout, seed=2)
    while killer.kills < 20:
        killer.until_done(20 - killer.kills)


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_one_of_two_jobs_that_is_killed_again_and_again_does_no_harm(
    layout: str, demo_bundle: Path, tmp_path: Path
) -> None:
    killer = Killer(tmp_path, demo_bundle, layout, seed=3)
    while killer.kills < 20:
        killer.one_of_two(20 - killer.kills)


@pytest.mark.long
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_a_kill_before_any_change_of_the_folder_is_mended(layout: str, demo_bundle: Path, tmp_path: Path) -> None:
    # The picture that was broken at first is whole in the second run, so that files of an earlier run are replaced, too.
    keys = make_tars(tmp_path / "in", 2, 3, broken=(1,))
    assert embed(demo_bundle, tmp_path / "in", "--format", layout, "--out", f"{tmp_path}/before/") == 0
    make_tars(tmp_path / "in", 2, 3, broken=(4,))
    arguments = [str(tmp_path / "in"), "--format", layout, "--replace-changed"]
    assert embed(demo_bundle, *arguments, "--out", f"{tmp_path}/expected/") == 0
    expected = assert_whole(tmp_path / "expected", keys, broken=(4,))
    kills = 0
    for number in range(1, 100):
        shutil.copytree(tmp_path / "before", tmp_path / "out")
        job = ["embed", str(demo_bundle), *arguments, "--out", f"{tmp_path}/out/"]
        killed = subprocess.run([sys.executable, "-c", DYING, str(number), *job], capture_output=True, text=True)
        kills += killed.returncode == -signal.SIGKILL
        assert embed(demo_bundle, *arguments, "--out", f"{tmp_path}/out/") == 0
        assert_same_embeddings(assert_whole(tmp_path / "out", keys, broken=(4,)), expected)
        shutil.rmtree(tmp_path / "out")
        if killed.returncode != -signal.SIGKILL:
            assert killed.returncode == 0, killed.stderr
            break
    assert kills > 8
