"""Child processes that end when the time of a run is over, or when the run itself ends, with everything that they started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

_ROOT = Path(__file__).resolve().parents[2]
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def run_bounded(
    command: Sequence[str],
    end: float | None,
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    environment: Mapping[str, str] | None = None,
    patience: float = 0.0,
) -> int | None:
    """Run a command until it ends, or until the time is over.

    Args:
        command: the program and its arguments.
        end: time of ``time.monotonic()``; None waits for as long as it takes.
        stdout, stderr: as of `subprocess.Popen`.
        environment: variables besides those of this process; the repository is put in front of ``PYTHONPATH``.
        patience: seconds after `end` in which the command, interrupted as by Ctrl-C, can print its results.

    Returns:
        The exit code; None where it was ended because the time was over.
    """
    process = start_child(command, stdout, stderr, environment, leashed=True)
    try:
        return process.wait(None if end is None else max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired:
        if patience:
            with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
                os.kill(process.pid, signal.SIGINT)
                process.wait(patience)
        return None
    finally:
        end_child(process)


def start_child(
    command: Sequence[str],
    stdout: IO[bytes] | int | None = None,
    stderr: IO[bytes] | int | None = None,
    environment: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    leashed: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a command that leads a process group of its own; end it with `end_child`.

    Args:
        command: the program and its arguments.
        stdout, stderr: as of `subprocess.Popen`.
        environment: variables besides those of this process; the repository is put in front of ``PYTHONPATH``.
        pass_fds: numbers of open files that the child keeps.
        leashed: the system kills it when this *thread* ends, and so when this process is killed: for the main thread.
    """
    paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
    return subprocess.Popen(
        list(command),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        pass_fds=tuple(pass_fds),
        env={**os.environ, **(environment or {}), "PYTHONPATH": paths},
        start_new_session=True,
        preexec_fn=_die_with_parent if leashed else None,
    )


def end_child(process: subprocess.Popen[bytes]) -> None:
    """Kill a child of `start_child` and all that it started: compilers would go on for minutes beside what follows."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def interrupted_by_sigterm() -> Iterator[list[int]]:
    """Inside, SIGTERM is a `KeyboardInterrupt`, so that children are ended and files are closed; for the main thread.

    Yields:
        A list that holds the signal's number once it has come.
    """
    came: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    before: Callable[[int, FrameType | None], object] | int | None = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, before)


def _die_with_parent() -> None:
    """In the child, before it becomes the command: the system kills it when its parent is killed (Linux's prctl)."""
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
