"""A job in a process of its own: a struct goes in, a struct comes out, and the process does not outlive its parent.

Engines are built like that, because a builder may abort on a graph it does not know, because its memory then goes back to the
system and can be told apart from the exporter's, and because libraries choose some things once, when they are imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

Job = TypeVar("Job", bound=msgspec.Struct)
Result = TypeVar("Result", bound=msgspec.Struct)

_PR_SET_PDEATHSIG = 1
_KILLED = (-9, 137)


class ChildFailedError(Exception):
    """The process ended without a result.

    Attributes:
        code: what it ended with; negative is a signal.
        output: all that it printed.
    """

    def __init__(self, code: int, output: str) -> None:
        super().__init__(f"exit code {code}")
        self.code, self.output = code, output

    @property
    def killed(self) -> bool:
        """Whether the system killed it, which it does when memory runs out."""
        return self.code in _KILLED

    @property
    def died(self) -> str:
        """`` (it died with signal 6)`` for a sentence's middle, or nothing."""
        return f" (it died with signal {-self.code})" if self.code < 0 else ""

    @property
    def last_line(self) -> str:
        """What it said last."""
        return (self.output.strip().splitlines() or ["it said nothing"])[-1].strip()


class Child(Generic[Result]):
    """``python -m <worker>`` at work on a job. Leave the context, and it is gone; several may work side by side."""

    def __init__(self, worker: str, job: msgspec.Struct, result: type[Result], environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            worker: a module whose main is `serve`.
            job: what it reads.
            result: what it writes.
            environment: variables besides those of this process.
        """
        self._result = result
        self._folder = tempfile.TemporaryDirectory(prefix="openclip-engines-build-")
        self._answer, self._log = Path(self._folder.name) / "result.json", Path(self._folder.name) / "log"
        # The worker imports this package from where it is now, whatever the working directory is.
        root = str(Path(__file__).parents[1])
        paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        try:
            with tempfile.TemporaryFile() as question, self._log.open("wb") as log:
                question.write(msgspec.json.encode(job))
                question.seek(0)
                self._process = subprocess.Popen(
                    [sys.executable, "-m", worker, str(self._answer)],
                    stdin=question,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment, "PYTHONPATH": paths},
                )
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> Child[Result]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._process.kill()  # Ctrl-C, or another one failed: the build must not go on alone
        self._process.wait()
        self._folder.cleanup()

    def wait(self) -> Result:
        """What it found.

        Raises:
            ChildFailedError: it died, or gave no result.
        """
        code = self._process.wait()
        if code == 0 and self._answer.is_file():
            return msgspec.json.decode(self._answer.read_bytes(), type=self._result)
        raise ChildFailedError(code, self._log.read_text(encoding="utf-8", errors="replace"))


def run_child(worker: str, job: msgspec.Struct, result: type[Result], environment: Mapping[str, str]) -> Result:
    """Run one `Child` to its end.

    Raises:
        ChildFailedError: it died, or gave no result.
    """
    with Child(worker, job, result, environment) as child:
        return child.wait()


def serve(job: type[Job], work: Callable[[Job], msgspec.Struct]) -> int:
    """A worker's main: read the job, do it, write the result."""
    _die_with_parent()
    result = work(msgspec.json.decode(sys.stdin.buffer.read(), type=job))
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(result))
    return 0


def _die_with_parent() -> None:
    """Where the exporter is killed, a build that nobody waits for must not go on (Linux's prctl)."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
