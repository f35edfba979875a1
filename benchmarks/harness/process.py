"""The run's side of contenders' processes: start one, send requests, and find the cause when one died."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmarks.harness.bounded import end_child, start_child

if TYPE_CHECKING:
    from benchmarks.contenders import Contender
    from benchmarks.harness.worker import Measured, Memory, OpenedInfo, Prepared
    from benchmarks.workloads.inputs import Case
    from benchmarks.workloads.subject import Subject

OUT_OF_TIME = "out of time: start the same command again, and it goes on from here"
_PATIENCE = 900.0  # seconds for one answer: max-autotune of a large tower takes minutes


class ContenderError(Exception):
    """A contender failed; the message is the note of its row."""


class MissingError(ContenderError):
    """A contender cannot run here; the message is the reason."""


class OutOfTimeError(ContenderError):
    """The time of the run was over before a contender had answered; its process was ended."""

    def __init__(self) -> None:
        super().__init__(OUT_OF_TIME)


class ContenderProcess:
    """One contender's process, which the caller closes."""

    def __init__(
        self,
        contender: Contender,
        patience: float = _PATIENCE,
        compiled: Path | None = None,
        end: float | None = None,
    ) -> None:
        """Start it.

        Args:
            contender: the contender that runs in it.
            patience: seconds for one answer.
            compiled: folder of the cache of PyTorch's compiler; None: the default. PyTorch may have set the variable.
            end: time of ``time.monotonic()`` after which no answer is waited for; None: no such time.
        """
        self.contender = contender
        self._patience, self._end = patience, end
        ours, theirs = multiprocessing.Pipe()
        self._connection = ours
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        caches = {} if compiled is None else {"TORCHINDUCTOR_CACHE_DIR": str(compiled.resolve())}
        leash, self._leash = os.pipe()  # the process reads its end when this one has died
        fds = (theirs.fileno(), leash)
        try:
            # Not -m: what the worker sends back must not be pickled as classes of __main__.
            command = [sys.executable, "-c", "from benchmarks.harness.worker import main; main()", *map(str, fds)]
            self._process = start_child(command, stderr=self._log, environment=caches, pass_fds=fds)
        finally:
            theirs.close()
            os.close(leash)

    def why_not(self, subject: Subject, device: str) -> str | None:
        """Why the contender cannot run here; None if it can."""
        reason: str | None = self._request("why_not", subject, self.contender, device)
        return reason

    def setup(self, subject: Subject, tower: str, folder: Path) -> None:
        """Make the files that the contender needs."""
        self._request("setup", subject, self.contender, tower, str(folder))

    def open(self, subject: Subject, tower: str, device: str, folder: Path) -> OpenedInfo:
        """Load the tower, in place of the one before."""
        info: OpenedInfo = self._request("open", subject, self.contender, tower, device, str(folder))
        return info

    def prepare(self, case: Case, warm_up_seconds: float) -> Prepared:
        """Load inputs and warm up."""
        prepared: Prepared = self._request("prepare", case, warm_up_seconds)
        return prepared

    def measure(self, calls: int, each: bool) -> Measured:
        """One round."""
        measured: Measured = self._request("measure", calls, each)
        return measured

    def rest(self) -> None:
        """Return when the process leaves the processor to others."""
        self._request("rest")

    def memory(self) -> Memory:
        """The memory that the process has taken."""
        memory: Memory = self._request("memory")
        return memory

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=5)
        end_child(self._process)
        os.close(self._leash)
        self._log.close()

    def kill(self) -> None:
        """End the process at once: a thread that waits for its answer gets a `ContenderError`."""
        end_child(self._process)

    @property
    def alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def _request(self, method: str, *arguments: object) -> Any:
        try:
            self._connection.send((method, arguments))
            left = self._patience if self._end is None else self._end - time.monotonic()
            if not self._connection.poll(max(0.0, min(self._patience, left))):
                self.kill()
                if left < self._patience:
                    raise OutOfTimeError
                raise ContenderError(f"no answer to {method!r} within {self._patience:.0f} s")
            good, answer = self._connection.recv()
        except (EOFError, OSError):
            raise ContenderError(self._cause_of_death()) from None
        if not good:
            raise ContenderError(answer)
        return answer

    def _cause_of_death(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        last = f": {' '.join(lines[-1].split())[:200]}" if lines else ""
        if code >= 0:
            return f"its process ended with exit code {code}{last}"
        name = signal.Signals(-code).name
        hint = " (out of memory?)" if name == "SIGKILL" else ""
        return f"its process died of {name}{hint}{last}"


@contextlib.contextmanager
def started(contender: Contender, end: float | None = None) -> Iterator[ContenderProcess]:
    """A contender's process that is closed at the end; see `ContenderProcess` for the arguments."""
    process = ContenderProcess(contender, end=end)
    try:
        yield process
    finally:
        process.close()
