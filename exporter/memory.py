"""Memory of this machine and process."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import resource
import sys
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def available_memory() -> int:
    """Bytes that programs can still allocate without swapping; 0 where the system does not report them.

    Inside a container that has a limit, no more than the rest of its limit.
    """
    here = _meminfo("MemAvailable")
    limit = memory_limit()
    if limit is None:
        return here
    rest = max(0, limit - _used_by_container(_CGROUP))
    return min(here, rest) if here else rest


def total_memory() -> int:
    """Bytes of this machine's memory, or of the container's limit if that is less; 0 where the system does not report them."""
    here, limit = _meminfo("MemTotal"), memory_limit()
    return here if limit is None else min(here, limit) or limit


def memory_limit(root: Path = _CGROUP) -> int | None:
    """The container's memory limit in bytes (control groups of version 2, then 1); None: no limit.

    Args:
        root: folder in which the control group's files are mounted.
    """
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        words = _read(root / name).strip()
        if words.isdecimal() and int(words) < 1 << 60:  # version 1 writes a huge number for no limit
            return int(words)
    return None


def _used_by_container(root: Path) -> int:
    """Bytes that count against the limit and cannot be reclaimed at once: all but the inactive part of the page cache."""
    for folder, usage in ((root, "memory.current"), (root / "memory", "memory.usage_in_bytes")):
        words = _read(folder / usage).strip()
        if words.isdecimal():
            lines = (line.split() for line in _read(folder / "memory.stat").splitlines())
            stat = {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdecimal()}
            return int(words) - stat.get("total_inactive_file", stat.get("inactive_file", 0))
    return 0


def _meminfo(field: str) -> int:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _read(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="ascii", errors="replace")
    return ""


def peak_memory() -> int:
    """The process's peak resident memory so far, in bytes.

    Not `ru_maxrss` where Linux reports VmHWM: a child that was started by vfork begins with its parent's.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def release_memory() -> None:
    """Collect unreachable objects and return the allocator's free memory, so that one stage's peak does not count in the next."""
    gc.collect()
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
