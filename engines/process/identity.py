"""A name for this process that no other process has, on any machine, and whether the process of such a name has ended.

A number of a process alone does not suffice: it is used again, and containers and machines that share a disk have the same
numbers. So the name also has the machine's start (Linux' boot id), the container (namespace of process numbers) and the time at
which the process started.
"""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path


def process_name() -> str:
    """The name, of letters, digits, ``-`` and ``.``: machine, number of the process, its start."""
    return f"{_machine()}.{os.getpid()}.{_started(os.getpid()) or 0}"


def has_ended(name: str) -> bool:
    """Whether the process of a name has certainly ended. False also where it ran on another machine, which cannot be known here."""
    machine, _, rest = name.rpartition(".")[0].rpartition(".")
    started = name.rpartition(".")[2]
    if machine != _machine() or not rest.isdigit() or not started.isdigit():
        return False
    now = _started(int(rest))
    return now is None or (0 not in (now, int(started)) and now != int(started))


def _machine() -> str:
    host = "".join(c if c.isalnum() or c == "-" else "-" for c in socket.gethostname())[:40] or "host"
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        space = os.readlink("/proc/self/ns/pid")
    except OSError:  # a system without /proc: the host's name must do
        boot, space = "", ""
    return f"{host}-{hashlib.sha256(f'{host}{boot}{space}'.encode()).hexdigest()[:12]}"


def _started(pid: int) -> int | None:
    """The start of a process in ticks since the machine's start; 0 where it cannot be read; None where there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:  # there may be no /proc, or it may hide processes of other users (its option hidepid)
        return _answers(pid)
    except OSError:
        return 0
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _answers(pid: int) -> int | None:
    """0 where a process lives, as the system's answer to signal 0 says; None where there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        return 0
    return 0
