"""Folders that are slow to make and only read: one for all test files and workers of a session."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of the session have."""
    base = factory.getbasetemp()
    # Not the variable alone: a pytest that a test starts in a worker inherits it.
    return base.parent if base.name == f"popen-{os.environ.get('PYTEST_XDIST_WORKER')}" else base


def made_once(session: Path, name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name in the `session_folder`, which the first caller makes; one that `make` failed in is made anew."""
    folder, made = session / name, session / f"{name}.made"
    with FileLock(session / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            made.touch()
    return folder
