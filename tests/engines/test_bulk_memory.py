"""Peak memory of a job does not grow with the number of its shards and files."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from made_shards import BROKEN, jpeg, make_tars

# The engine is left out, so that the rest takes most of the time. Prints the number of rows and the peak of resident memory in KiB:
# a child's `ru_maxrss` would begin at its parent's.
JOB = """
import sys
from pathlib import Path

import numpy as np

import engines
from engines.bulk.description import JobDescription, agree
from engines.shards.input_shards import Sources
from engines.bulk.job import run_job
from engines.bulk.maker import MakeOptions
from engines.commands.embed_progress import TerminalReporter
from engines.files.output_folder import output_folder

bundle, out, layout, *paths = sys.argv[1:]
clip = engines.load(bundle, towers=("image",))
embed_dim = clip.manifest.model.embed_dim
clip.encode_image = lambda pixels: np.zeros((len(pixels), embed_dim), np.float32)
folder = output_folder(out)
description = agree(folder, JobDescription(bundle, "", "x", ("image",), layout, "float16", embed_dim))
sources = Sources(tuple(paths), rows=1000)
summary = run_job(clip, sources, (0, 1), folder, description, MakeOptions(), TerminalReporter())
status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
print(summary.made, summary.rows, status["VmHWM"].split()[0])
"""


def run(bundle: Path, out: Path, layout: str, *paths: object) -> tuple[int, int, int]:
    """Shards, rows, and the peak of memory in KiB."""
    command = [sys.executable, "-c", JOB, str(bundle), str(out), layout, *map(str, paths)]
    job = subprocess.run(command, capture_output=True, text=True, check=False)
    assert job.returncode == 0, job.stderr
    made, rows, peak = map(int, job.stdout.split())
    return made, rows, peak


@pytest.mark.long
@pytest.mark.parametrize("layout", ["parquet", "npy"])
def test_memory_of_ten_and_of_a_thousand_shards(layout: str, demo_bundle: Path, tmp_path: Path) -> None:
    make_tars(tmp_path / "in", 1000, 5, broken=range(0, 5000, 17))
    few = run(demo_bundle, tmp_path / "few", layout, f"{tmp_path}/in/{{00000..00009}}.tar")
    many = run(demo_bundle, tmp_path / "many", layout, f"{tmp_path}/in/{{00000..00999}}.tar")
    assert (few[:2], many[:2]) == ((10, 50), (1000, 5000))
    assert abs(many[2] / few[2] - 1) < 0.05


@pytest.mark.slow
def test_memory_of_a_folder_of_200_000_files(demo_bundle: Path, tmp_path: Path) -> None:
    # The first 20,000 also fill the caches of the C library's allocator, one for each thread.
    for i in range(200_000):
        folder = tmp_path / "in" / f"{i // 20_000}" / f"{i // 1000:03d}"
        if i % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{i:06d}.jpg").write_bytes(BROKEN if i % 2 else jpeg(i % 50))
    few = run(demo_bundle, tmp_path / "few", "parquet", tmp_path / "in/0")
    many = run(demo_bundle, tmp_path / "many", "parquet", tmp_path / "in")
    assert (few[:2], many[:2]) == ((20, 20_000), (200, 200_000))
    assert abs(many[2] / few[2] - 1) < 0.05
