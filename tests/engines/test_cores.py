"""Cores that a process may use: affinity and the CPU quotas of control groups, versions 1 and 2."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from engines.process import cores
from engines.process.cores import cpu_quota, engine_threads, usable_cores

V2 = "30 23 0:26 {top} /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"


def system(root: Path, groups: str, mounts: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "expected"),
    [
        # version 2 with a namespace: the container's own group is the root
        ("0::/\n", V2.format(top="/"), {"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", V2.format(top="/"), {"sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ("0::/\n", V2.format(top="/"), {}, None),
        # the smallest quota of the groups above
        (
            "0::/a/b\n",
            V2.format(top="/"),
            {"sys/fs/cgroup/a/cpu.max": "50000 100000", "sys/fs/cgroup/a/b/cpu.max": "400000 100000"},
            0.5,
        ),
        # version 1, where the container sees its own folder and the path of the host
        (
            "4:cpu,cpuacct:/docker/123\n",
            V1.format(top="/docker/123"),
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            2.5,
        ),
        (
            "4:cpu,cpuacct:/docker/123\n",
            V1.format(top="/"),
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "300000",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            3.0,
        ),
        (
            "4:cpu,cpuacct:/\n",
            V1.format(top="/"),
            {
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000",
            },
            None,
        ),
        # outside the namespace's root, and text that is no number
        ("0::/../../x\n", V2.format(top="/"), {"sys/fs/cgroup/cpu.max": "200000 100000"}, 2.0),
        ("0::/\n", V2.format(top="/"), {"sys/fs/cgroup/cpu.max": "many 0"}, None),
        ("", "", {}, None),
        ("nonsense\n", "nonsense\n", {}, None),
    ],
)
def test_quota(groups: str, mounts: str, files: dict[str, str], expected: float | None, tmp_path: Path) -> None:
    assert cpu_quota(system(tmp_path, groups, mounts, files)) == expected


@pytest.mark.parametrize(
    ("affinity", "quota", "usable", "threads"),
    [
        (64, None, 64, None),  # the whole machine: the engine's library chooses
        (64, 1.5, 2, 2),
        (64, 0.1, 1, 1),
        (64, 40.0, 40, None),  # the library takes the 32 physical cores
        (6, None, 6, 3),
        (6, 100.0, 6, 3),
    ],
)
def test_threads_follow_affinity_and_quota(
    affinity: int, quota: float | None, usable: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cores, "_affinity", lambda: set(range(affinity)))
    monkeypatch.setattr(cores, "_physical_cores", lambda cpus: len(cpus) // 2)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(cores, "cpu_quota", lambda: quota)
    assert usable_cores() == usable
    assert engine_threads() == threads


def test_physical_cores_of_this_machine() -> None:
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
    assert 1 <= cores._physical_cores(set(cpus)) <= len(cpus)


@contextlib.contextmanager
def group_with_half_a_cpu() -> Iterator[Path]:
    """A real control group of this machine, version 1 or 2, whose tasks may use half a CPU."""
    tops = {"/sys/fs/cgroup/cpu": 1, "/sys/fs/cgroup/cpu,cpuacct": 1, "/sys/fs/cgroup": 2}
    for top, version in tops.items():
        folder = Path(top) / f"openclip-engines-{os.getpid()}"
        try:
            if version == 2 and not (Path(top) / "cgroup.controllers").exists():
                continue
            folder.mkdir()
        except OSError:
            continue
        try:
            if version == 1:
                (folder / "cpu.cfs_quota_us").write_text("50000")
            else:
                (folder / "cpu.max").write_text("50000 100000")
        except OSError:
            folder.rmdir()
            continue
        try:
            yield folder
        finally:
            folder.rmdir()
        return
    pytest.skip("this machine lets us make no control group with a quota of CPU")


def test_a_process_in_a_real_group(demo_bundle: Path) -> None:
    code = (
        "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "import engines\nfrom engines.process.cores import cpu_quota, engine_threads, usable_cores\n"
        "print(cpu_quota(), usable_cores(), engine_threads())\n"
        "clip = engines.load(sys.argv[2], engine='onnxruntime')\n"
        "print(clip._decoder._pool.get()._max_workers)\n"
        "tower = clip._runtimes['image'].get()\n"
        "print(tower._bound._session.get_session_options().intra_op_num_threads)\n"
    )
    with group_with_half_a_cpu() as folder:
        ran = subprocess.run(
            [sys.executable, "-c", code, str(folder), str(demo_bundle)], capture_output=True, text=True, check=False
        )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["0.5", "1", "1", "1", "1"]
