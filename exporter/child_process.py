"""A job in a separate process: a struct goes in, a struct comes out, and the process does not outlive its parent.

Engines are built in such processes, because a builder may abort on a graph that it does not support, because its memory then goes
back to the system and can be measured apart from the exporter's, and because libraries choose some settings once, when they are
imported.
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
        code: the exit code; a negative number is a signal.
        output: the text that the process printed.
    """

    def __init__(self, code: int, output: str) -> None:
        super().__init__(f"exit code {code}")
        self.code, self.output = code, output

    @property
    def killed(self) -> bool:
        """Whether the system killed the process, which it does when memory runs out."""
        return self.code in _KILLED

    @property
    def died(self) -> str:
        """The signal as a part of a sentence, such as `` (it died with signal 6)``; an empty string without a signal."""
        return f" (it died with signal {-self.code})" if self.code < 0 else ""

    @property
    def last_line(self) -> str:
        """The last line that the process printed."""
        return (self.output.strip().splitlines() or ["it said nothing"])[-1].strip()


class Child(Generic[Result]):
    """A process ``python -m <worker>`` that runs a job; it ends when the context is left. Several may run at the same time."""

    def __init__(self, worker: str, job: msgspec.Struct, result: type[Result], environment: Mapping[str, str]) -> None:
        """Start the process.

        Args:
            worker: a module whose main function calls `serve`.
            job: the job that the worker reads.
            result: the type of the result that the worker writes.
            environment: environment variables in addition to those of this process.
        """
        self._result = result
        self._folder = tempfile.TemporaryDirectory(prefix="openclip-engines-build-")
        self._answer, self._log = Path(self._folder.name) / "result.json", Path(self._folder.name) / "log"
        # The worker imports this package from its present folder, whatever the working directory is.
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
        self._process.kill()  # after Ctrl-C, or the failure of another child, the build must not go on alone
        self._process.wait()
        self._folder.cleanup()

    def wait(self) -> Result:
        """Wait for the end of the process and return its result.

        Raises:
            ChildFailedError: the process died, or wrote no result.
        """
        code = self._process.wait()
        if code == 0 and self._answer.is_file():
            return msgspec.json.decode(self._answer.read_bytes(), type=self._result)
        raise ChildFailedError(code, self._log.read_text(encoding="utf-8", errors="replace"))


def run_child(worker: str, job: msgspec.Struct, result: type[Result], environment: Mapping[str, str]) -> Result:
    """Run one `Child` to its end and return its result.

    Raises:
        ChildFailedError: the process died, or wrote no result.
    """
    with Child(worker, job, result, environment) as child:
        return child.wait()


def serve(job: type[Job], work: Callable[[Job], msgspec.Struct]) -> int:
    """Read the job, run it and write the result: the main function of a worker; returns the exit code."""
    _die_with_parent()
    result = work(msgspec.json.decode(sys.stdin.buffer.read(), type=job))
    Path(sys.argv[1]).write_bytes(msgspec.json.encode(result))
    return 0


def _die_with_parent() -> None:
    """End this process when the exporter is killed (Linux's prctl), because nothing would read the result of its build."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
