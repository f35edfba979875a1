"""Two live jobs that publish the same shard of several files: a mixture of both is never taken for a whole shard."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_shards import BROKEN, assert_nothing_left, embed, jpeg, read_out

from engines.bulk import job
from engines.commands import embed_shards
from engines.files.leases import Leases

# Stops before it gives a file its final name, as a machine does that is suspended.
STOPPING = """
import os, signal, sys

replace = os.replace


def stopping(source, target):
    if str(target).endswith(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGSTOP)
    replace(source, target)


os.replace = stopping
from engines.__main__ import main

sys.exit(main(sys.argv[2:]))
"""
NAMES = ["img_emb_x.npy", "errors_x.parquet", "metadata_x.parquet"]


def pictures(folder: Path, broken: int) -> None:
    for i in range(4):
        (folder / f"{i}.jpg").write_bytes(BROKEN if i == broken else jpeg(i))


@pytest.mark.parametrize("name", NAMES)
def test_a_suspended_job_goes_on_after_another_took_its_shard_over(
    name: str, demo_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job fails for another row, so that both have equally many: pictures that a parquet file names may change."""
    table = pa.table({"key": [str(i) for i in range(4)], "image_path": [f"{i}.jpg" for i in range(4)]})
    pq.write_table(table, tmp_path / "x.parquet")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "x.parquet"), "--format", "npy", "--out", str(out)]
    pictures(tmp_path, -1)
    assert embed(demo_bundle, *arguments[:-1], tmp_path / "expected") == 0
    expected = np.load(tmp_path / "expected/img_emb/img_emb_x.npy").astype(np.float32)
    pictures(tmp_path, 1)
    stopping = [sys.executable, "-c", STOPPING, name, "embed", str(demo_bundle), *arguments]
    with subprocess.Popen(stopping) as stopped:
        _, status = os.waitpid(stopped.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        pictures(tmp_path, 2)
        with monkeypatch.context() as patch:
            patch.setattr(job, "Leases", functools.partial(Leases, lease_seconds=0.3))
            patch.setattr(embed_shards, "run_job", functools.partial(job.run_job, wait_seconds=0.1))
            assert embed(demo_bundle, *arguments) == 0
        stopped.send_signal(signal.SIGCONT)
        while True:  # it stops again where it makes the shard again
            _, status = os.waitpid(stopped.pid, os.WUNTRACED)
            if not os.WIFSTOPPED(status):
                break
            stopped.send_signal(signal.SIGCONT)
        assert os.waitstatus_to_exitcode(status) == 0
        stopped.returncode = 0
    shard = read_out(out)["x"]
    assert shard.all_keys == ["0", "1", "2", "3"]
    assert len(shard.problems) == 1
    for key, row in zip(shard.keys, shard.embeds, strict=True):
        assert row @ expected[int(key)] > 0.999
    assert_nothing_left(out)
