"""The checks of libraries, engines and the hub, in processes of their own, so that a library that ends Python is a reason, too.

A library may be built for another processor (an illegal instruction), crash in its initialisation, or wait for ever. The process
that imports it writes one line of JSON for each check; where it ends or hangs in the middle, the check under way gets that as its
reason, and a new process goes on with the checks after it.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

WORKER = "exporter.doctor.worker"
LONGEST_SECONDS = 60.0


class Failed(str):
    """The end of a sentence about a check whose process gave no answer: ``ends Python with signal SIGILL``."""


def run_checks(groups: Sequence[Sequence[str]], limits: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Run checks, each group in a process of its own and in order.

    Args:
        groups: names of checks, such as ``library:torch``, that `exporter.doctor.worker` knows.
        limits: check to the longest time for it in seconds; others may take `LONGEST_SECONDS`.

    Returns:
        Check to its answer, as types that JSON has, or to `Failed`.
    """
    with ThreadPoolExecutor(max(1, len(groups))) as pool:
        answers = list(pool.map(lambda names: _run_group(tuple(names), limits or {}), groups))
    return {name: answer for part in answers for name, answer in part.items()}


def _run_group(names: tuple[str, ...], limits: Mapping[str, float]) -> dict[str, Any]:
    answers: dict[str, Any] = {}
    while len(answers) < len(names):
        rest = names[len(answers) :]
        with _worker(rest) as (process, reader):
            for name in rest:
                seconds = limits.get(name, LONGEST_SECONDS)
                line = _line(reader, seconds)
                if line is None:
                    process.kill()
                    answers[name] = Failed(f"does not answer within {seconds:.0f} seconds")
                    break
                if not line:
                    answers[name] = Failed(_end(process.wait()))
                    break
                answers[name] = json.loads(line)
    return answers


@contextlib.contextmanager
def _worker(names: Sequence[str]) -> Iterator[tuple[subprocess.Popen[bytes], _Lines]]:
    """A process that runs checks, and the lines that it writes to a pipe of its own, because libraries print to the others."""
    read, write = os.pipe()
    root = str(Path(__file__).parents[2])
    paths = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH", ""), root]))
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER, str(write), *names],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(write,),
            env={**os.environ, "PYTHONPATH": paths},
        )
    finally:
        os.close(write)
    try:
        yield process, _Lines(read)
    finally:
        process.kill()
        process.wait()
        os.close(read)


class _Lines:
    """Lines that arrive at a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor, self.rest = descriptor, b""


def _line(lines: _Lines, seconds: float) -> str | None:
    """The next line; an empty text at the end, None if nothing came in time."""
    end = time.monotonic() + seconds
    with selectors.DefaultSelector() as selector:
        selector.register(lines.descriptor, selectors.EVENT_READ)
        while b"\n" not in lines.rest:
            if not selector.select(max(0.0, end - time.monotonic())):
                return None
            data = os.read(lines.descriptor, 1 << 16)
            if not data:
                return ""
            lines.rest += data
    line, _, lines.rest = lines.rest.partition(b"\n")
    return line.decode()


def _end(code: int) -> str:
    if code >= 0:
        return f"ends Python with exit code {code}"
    try:
        return f"ends Python with signal {signal.Signals(-code).name}"
    except ValueError:
        return f"ends Python with signal {-code}"
