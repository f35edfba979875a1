"""Folders that are slow to make and only read: one for all test files and workers of a session."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def session_folder(factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of the session have."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """The folder of that name, which the first caller makes; `make` leaves a whole one or none."""
    folder = session_folder(factory) / name
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            make(folder)
    return folder
