"""A Python environment for each peer whose requirements contradict ours or another's, from a file of pinned versions."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

from benchmarks.peers.contenders import ENVIRONMENTS

_HERE = Path(__file__).resolve().parent
_STAMP = "installed.txt"
_FAILED = "failed.txt"


def requirements(name: str) -> Path:
    """The file of an environment's pinned packages."""
    return _HERE / f"requirements-{name}.txt"


def interpreter(name: str) -> Path:
    """The environment's Python; of the nameless one this process's."""
    return ENVIRONMENTS.absolute() / name / "bin" / "python" if name else Path(sys.executable)


def why_not(name: str) -> str | None:
    """The reason why an environment cannot be used; None if it can."""
    folder = ENVIRONMENTS / name
    if not name or (folder / _STAMP).exists():
        return None
    if (folder / _FAILED).exists():
        return (folder / _FAILED).read_text(encoding="utf-8")
    return "its environment is not there: run `python -m benchmarks peers --prepare`"


def prepare_environment(name: str) -> str | None:
    """Create an environment and install its packages, unless that has been done with the same pins.

    Returns:
        None, or the reason why the packages could not be installed, which is kept for `why_not`, too.
    """
    folder, pins = ENVIRONMENTS / name, requirements(name)
    digest = hashlib.sha256(pins.read_bytes()).hexdigest()
    stamp, failed = folder / _STAMP, folder / _FAILED
    if stamp.exists() and stamp.read_text(encoding="utf-8") == digest:
        return None
    stamp.unlink(missing_ok=True)
    failed.unlink(missing_ok=True)
    python = str(interpreter(name))
    for command in (
        [sys.executable, "-m", "venv", str(folder)],
        [python, "-m", "pip", "install", "--disable-pip-version-check", "-q", "-r", str(pins)],
    ):
        problem = run_quietly(command)
        if problem is not None:
            folder.mkdir(parents=True, exist_ok=True)
            failed.write_text(f"installation failed: {problem}", encoding="utf-8")
            return f"installation failed: {problem}"
    stamp.write_text(digest, encoding="utf-8")
    return None


def run_quietly(command: list[str]) -> str | None:
    """Run a command without output; None, or its last words if it fails."""
    ran = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ran.returncode == 0:
        return None
    lines = [line.strip() for line in (ran.stderr.strip() or ran.stdout.strip()).splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith("error")] or lines[-1:]
    return (errors or [f"exit code {ran.returncode}"])[0].split(": ", 1)[-1][:300]
