"""One side of the comparison: a process, in C++ or Python, that opens a bundle and embeds what it is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

_ROOT = Path(__file__).resolve().parents[2]
_PYTHON = "import sys; from benchmarks.cpp_library.python_side import main; main(sys.argv[1:])"
_QUIET_STEP, _QUIET_WITHIN = 0.06, 2.0  # seconds: ONNX Runtime's threads look for work for 50 ms after a call
_PATIENCE = 30.0  # seconds in which a process ends after its input has


class SideError(Exception):
    """A side cannot open the bundle, or failed; the message is its last words."""


@dataclass(frozen=True)
class Order:
    """One call.

    Attributes:
        what: ``images`` or ``texts``.
        callers: number of threads that embed equal parts of the items.
        file: the items, one a line.
    """

    what: str
    callers: int
    file: Path

    def __str__(self) -> str:
        return f"{self.what} {self.callers} {self.file}"


def commands(bundle: Path, engine: str, program: Path) -> dict[str, list[str]]:
    """Language → the command of its side."""
    return {
        "Python": [sys.executable, "-c", _PYTHON, str(bundle), engine],
        "C++": [str(program), str(bundle), "--engine", engine],
    }


class Side:
    """A running process; a context manager.

    Attributes:
        engines: ``image`` and ``text`` with the descriptions of the engines.
        started: time of ``time.perf_counter()`` just before the process was started.
    """

    def __init__(self, command: list[str]) -> None:
        """Start it, and wait until the bundle is open.

        Raises:
            SideError: it cannot be opened.
        """
        self._log = tempfile.TemporaryFile()  # noqa: SIM115  (closed by `close`)
        paths = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        self.started = time.perf_counter()
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, "PYTHONPATH": paths},
                text=True,
            )
        except OSError as error:
            self._log.close()
            raise SideError(f"{command[0]} cannot be started: {error.strerror}") from None
        try:
            self.engines: dict[str, Any] = self._read()
        except BaseException:
            self.close()
            raise

    def run(self, order: object) -> dict[str, Any]:
        """Send the order's text, which is one line, and return the answer: of an `Order` its ``seconds``, ``items`` and ``sum``."""
        return self._ask(str(order))

    def memory(self) -> dict[str, int]:
        """``resident`` and ``peak`` bytes."""
        return self._ask("memory")

    def rest(self) -> None:
        """Return when all threads of the process sleep, and so leave the processor to the other side."""
        end = time.perf_counter() + _QUIET_WITHIN
        used = self._ticks()
        while time.perf_counter() < end:
            time.sleep(_QUIET_STEP)
            before, used = used, self._ticks()
            if used == before:
                return

    def close(self) -> None:
        """End the process."""
        try:
            self._process.communicate(timeout=_PATIENCE)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self._process.kill()
            self._process.wait()
        finally:
            self._log.close()

    def __enter__(self) -> Side:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _ask(self, line: str) -> Any:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise SideError(self._last_words()) from None
        return self._read()

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SideError(self._last_words())
        return json.loads(line)

    def _last_words(self) -> str:
        code = self._process.wait()
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("error: ") if lines else f"it ended with exit code {code} and no word"

    def _ticks(self) -> int:
        """Processor time of the process, in the system's ticks of 10 ms."""
        text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii", errors="replace")
        fields = text.rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
