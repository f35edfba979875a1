"""The number of cores that this process may use, from its affinity and the CPU quota of its container.

Sources: Linux' ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``), ``scheduler/sched-bwc.rst`` (``cpu.cfs_quota_us`` of
version 1), and ``proc_pid_mountinfo(5)``. A quota of 1.5 CPUs counts as two cores, as in Java and Go.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ROOT = Path("/")


def usable_cores() -> int:
    """The number of cores that this process may use at a time, at least 1, within its affinity and its CPU quota."""
    cores = len(_affinity())
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def engine_threads() -> int | None:
    """The number of threads for one run of an engine where this process may not use the whole machine; None where it may.

    With None the engine's library takes the number of the machine's physical cores. Otherwise the number is that of the physical
    cores within the affinity, limited by the CPU quota.
    """
    affinity, quota = _affinity(), cpu_quota()
    physical = _physical_cores(affinity)
    limited = physical if quota is None else max(1, min(physical, math.ceil(quota)))
    return None if len(affinity) == (os.cpu_count() or 1) and limited == physical else limited


def cpu_quota(root: Path = _ROOT) -> float | None:
    """The CPU quota of this process's control groups (1.5: one and a half seconds of CPU time a second); None: no limit.

    The groups above count, too: the smallest quota holds.

    Args:
        root: folder in which ``proc`` and ``sys`` are mounted.
    """
    quotas = [quota for folder, version in _groups(root) if (quota := _quota_of(folder, version)) is not None]
    return min(quotas, default=None)


def _groups(root: Path) -> Iterator[tuple[Path, int]]:
    """Folders of the control groups that limit this process's CPU time, with the version of their interface."""
    paths = dict(_own_groups(root))
    for version, top, mounted in _mounts(root):
        if version not in paths:
            continue
        # A mount contains the groups below `top`. A container without its own namespace reads its group's path as it is on the
        # host, and has only the group's folder: there the mount itself is the group.
        path = PurePosixPath(paths[version])
        below = path.relative_to(top) if path.is_relative_to(top) else PurePosixPath()
        folder = root / mounted.lstrip("/")
        for step in [PurePosixPath(), *reversed([p for p in (below, *below.parents) if p.parts])]:
            if ".." not in step.parts and os.path.isdir(folder / step):
                yield folder / step, version


def _own_groups(root: Path) -> Iterator[tuple[int, str]]:
    """Entries (1 or 2, path) of ``/proc/self/cgroup``, whose lines are ``number:controllers:path``."""
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            yield 2, path
        elif "cpu" in controllers.split(","):
            yield 1, path


def _mounts(root: Path) -> Iterator[tuple[int, str, str]]:
    """Entries (1 or 2, group at the mount's top, path of the mount) of ``/proc/self/mountinfo``."""
    for line in _read(root / "proc/self/mountinfo").splitlines():
        left, separator, right = line.partition(" - ")
        fields, kind = left.split(), right.split()
        if not separator or len(fields) < 5 or not kind:
            continue
        if kind[0] == "cgroup2":
            yield 2, fields[3], _unescaped(fields[4])
        elif kind[0] == "cgroup" and "cpu" in kind[-1].split(","):
            yield 1, fields[3], _unescaped(fields[4])


def _quota_of(folder: Path, version: int) -> float | None:
    if version == 2:
        words = _read(folder / "cpu.max").split()
        quota, period = (words[0], words[1]) if len(words) == 2 else ("max", "0")
    else:
        quota, period = _read(folder / "cpu.cfs_quota_us").strip(), _read(folder / "cpu.cfs_period_us").strip()
    try:
        cpus = int(quota) / int(period)
    except (ValueError, ZeroDivisionError):  # "max", or nothing there
        return None
    return cpus if cpus > 0 else None  # -1: no limit


def _affinity() -> set[int]:
    return set(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))


def _physical_cores(cpus: set[int]) -> int:
    """The number of physical cores of these logical CPUs; the number of CPUs where the system does not report shared cores."""
    base = _ROOT / "sys/devices/system/cpu"
    cores = {_read(base / f"cpu{cpu}/topology/thread_siblings_list").strip() or f"cpu {cpu}" for cpu in cpus}
    return max(1, len(cores))


def _unescaped(path: str) -> str:
    """A path of mountinfo without its escapes, such as ``\\040`` for a space."""
    for code in ("\\040", "\\011", "\\012", "\\134"):
        path = path.replace(code, chr(int(code[1:], 8)))
    return path


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
