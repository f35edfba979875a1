"""The tests marked ``gpu`` as a part of a suite: in many processes, with an end that leaves time to print the failures."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.harness.bounded import run_bounded
from benchmarks.records.machine import usable_cores, versions
from benchmarks.records.rows import Row

if TYPE_CHECKING:
    from benchmarks.harness.run import Run

LOG = "tests.txt"
MARKS = "gpu and not slow"
_ONE_TEST = 150.0  # seconds; a test that takes longer hangs
_LAST_WORDS = 15.0  # seconds
_LOG_BYTES = 4 << 20
_COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")


def run_gpu_tests(run: Run, paths: Sequence[str], end: float, last_words: float = _LAST_WORDS) -> None:
    """Run the tests; their output is in ``tests.txt`` among the rows, and the counts are rows of ``what = tests``.

    Args:
        run: the journal of the rows.
        paths: files or folders of tests, from the repository's root; empty is all.
        end: time of ``time.monotonic()`` when the tests are ended.
        last_words: seconds before the end in which no test begins, and then as many to print the failures.
    """
    log = run.folder / LOG
    seconds = end - time.monotonic()
    with log.open("wb") as file:
        code = run_bounded(command(paths, seconds, last_words), end, stdout=file, stderr=file, patience=last_words)
    if log.stat().st_size > _LOG_BYTES:
        log.write_bytes(log.read_bytes()[-_LOG_BYTES:])
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["pytest said nothing"]
    counts = _counts(lines[-1])
    over = code is None or any("session-timeout" in line for line in lines[-30:])
    ending = f"stopped after {seconds:.0f} s" if over else f"exit code {code}"
    print("  " + "\n  ".join(lines[-12:]) + f"\n  {ending}; {log}", flush=True)
    run.complete = run.complete and not over
    if not counts:
        why = f"{ending}: {lines[-1][:200]}"
        run.add([Row("tests", MARKS, "passed", engine="pytest", unit="tests", status="failed", note=why)], "cpu")
        return
    found = [
        Row(
            "tests",
            MARKS,
            figure,
            engine="pytest",
            value=float(counts.get(figure, 0)),
            unit="tests",
            note=ending,
            versions=versions(("torch", "triton", "pytest")),
        )
        for figure in ("passed", "failed", "skipped")
    ]
    run.add(found, run.machine.device)


def command(paths: Sequence[str], seconds: float, last_words: float = _LAST_WORDS) -> list[str]:
    """Pytest's command line for so many seconds, with the plugins that are installed: a bare image may lack them."""
    words = [sys.executable, "-m", "pytest", *paths, "-m", MARKS, "-q", "-rs", "--tb=short", "--no-header"]
    words += [
        "-p",
        "no:cacheprovider",
        "--continue-on-collection-errors",
    ]  # a bare image lacks what some of them import
    if find_spec("xdist") is not None:
        # Tests of one group share what is slow to make: a bundle is exported by one process. A process that dies is not replaced,
        # because pytest-xdist 3.8 would wait for ever for its other tests.
        words += ["-n", str(max(1, usable_cores() - 2)), "--dist", "loadgroup", "--max-worker-restart=0"]
    if find_spec("pytest_timeout") is not None:
        words += [f"--session-timeout={max(1.0, seconds - last_words):.0f}"]
        words += [f"--timeout={max(1.0, min(_ONE_TEST, seconds - last_words)):.0f}", "--timeout-method=thread"]
    return words


def _counts(line: str) -> dict[str, int]:
    """ "2 failed, 3 passed in 1.2s"; an error is a failure, too."""
    counts: dict[str, int] = {}
    for number, what in _COUNTS.findall(line):
        name = "failed" if what.startswith("error") else what
        counts[name] = counts.get(name, 0) + int(number)
    return counts
